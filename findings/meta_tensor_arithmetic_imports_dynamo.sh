#!/usr/bin/env bash
# torch 2.14.1: multiplying a tensor on the meta device, which has no values, imports TorchDynamo and
# sympy, over a thousand modules; on a CPU tensor it imports nothing. Making the same network's layers
# (Linear, Conv2d, LayerNorm) on the meta device imports neither. So who builds a network there only to
# look at its names and shapes, as is recommended for being cheap, pays for one `* 0.02` on a position
# embedding with 0.7 to 0.9 of the time of `import torch` (1.57 to 2.02 s beside 2.17 to 2.36 s, n = 3,
# 2-core AVX2 machine, Python 3.11), once a process.
# Seen on 2026-11-27:
#   layers on meta     dynamo False sympy False
#   multiply on cpu    dynamo False sympy False
#   multiply on meta   dynamo True  sympy True
# Fails when that changes. Downloads torch (several GB) into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy==2.4.6
try() {
  "$folder/venv/bin/python" -c "
import sys, torch
$2
print('$1', 'dynamo', 'torch._dynamo' in sys.modules, 'sympy', 'sympy' in sys.modules)"
}
layers="
with torch.device('meta'): torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))"
found=$(try "layers on meta" "$layers"
  try "multiply on cpu" "torch.empty(2, 3) * 0.02"
  try "multiply on meta" "torch.empty(2, 3, device='meta') * 0.02")
echo "$found"
[ "$found" = "layers on meta dynamo False sympy False
multiply on cpu dynamo False sympy False
multiply on meta dynamo True sympy True" ]
