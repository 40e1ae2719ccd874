#!/usr/bin/env bash
# torch 2.14.1: fake_quantize_per_channel_affine reads its zero points back to the host in every call where they are
# whole numbers, as observers give them (it checks their range), and does not where they are floats; the outputs are the
# same to the bit. The read hides in C++, so no Python line shows it, and on a GPU it waits for all that was asked for
# and cannot be recorded as a CUDA graph. The per-tensor form reads both kinds.
# Seen on 2026-11-28, on a CPU, where the profiler names the read all the same:
#   per channel  int32   reads True
#   per channel  float32 reads False
#   per tensor   int32   reads True
#   per tensor   float32 reads True
#   per channel  same outputs True
# Fails when that changes. Downloads torch (several GB) into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy==2.4.6
found=$("$folder/venv/bin/python" -c "
import torch
from torch.profiler import ProfilerActivity, profile

values, scales, scale = torch.randn(4, 8), torch.full((4,), 0.05), torch.tensor(0.05)
outputs = []

def reads(call):
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        outputs.append(call())
    return any(event.key == 'aten::_local_scalar_dense' for event in seen.key_averages())

for name, shape in (('per channel ', (4,)), ('per tensor  ', ())):
    for kind in (torch.int32, torch.float32):
        zero = torch.zeros(shape, dtype=kind)
        if shape:
            call = lambda: torch.fake_quantize_per_channel_affine(values, scales, zero, 0, -128, 127)
        else:
            call = lambda: torch.fake_quantize_per_tensor_affine(values, scale, zero, -128, 127)
        print(name, str(kind).removeprefix('torch.').ljust(7), 'reads', reads(call))
print('per channel  same outputs', torch.equal(outputs[0], outputs[1]))" 2>/dev/null)
echo "$found"
[ "$found" = "per channel  int32   reads True
per channel  float32 reads False
per tensor   int32   reads True
per tensor   float32 reads True
per channel  same outputs True" ]
