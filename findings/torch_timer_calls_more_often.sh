#!/usr/bin/env bash
# torch 2.14.1: torch.utils.benchmark.Timer.timeit(n), "mirrors" the standard library's Timer.timeit by its
# docstring, which calls a statement n times; torch's calls it max(2, n // 100) times more, before the clock starts.
# One pass of a slow network, asked for by timeit(1), costs three: whoever times in many short blocks pays for two
# warm-ups in every one (batches of 64 pictures of 320×320 were not timed after 13 minutes; 5 passes take 16 s).
# Seen on 2026-11-28 (calls for n = 1, 10, 300):
#   standard library 1 10 300
#   torch 3 12 303
# Fails when that changes. Downloads torch (several GB) into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy==2.4.6 setuptools==80.9.0
found=$("$folder/venv/bin/python" -c "
import timeit
from torch.utils import benchmark

def calls(timer, number):
    made = []
    timer('call()', globals={'call': lambda: made.append(1)}).timeit(number)
    return len(made)

for name, timer in (('standard library', timeit.Timer), ('torch', benchmark.Timer)):
    print(name, *(calls(timer, number) for number in (1, 10, 300)))")
echo "$found"
[ "$found" = "standard library 1 10 300
torch 3 12 303" ]
