# What only a GPU can show of recorded steps: under eight minutes on an H200, each part with a limit of its own.
# No GPU was at hand yet, so none of it was run on one. $CIFAR10_JPEG has train/<class>/*.jpg and test/<class>/*.jpg.
set -e
export OUT="${OUT:-out/gpu_stages}"
mkdir -p "$OUT"
started=$(date +%s)
failed=0

# Recorded stages have the losses of unrecorded ones, and no step waits. About 3 minutes.
timeout 200 python -m pytest tests/whole/test_cuda.py -v > "$OUT/tests.log" 2>&1 || failed=1
grep -E "^(FAILED|ERROR|=+ .*(passed|skipped))" "$OUT/tests.log" || true

# A step of every stage against one of plain training, recorded and as it is; the goal is 1.5 times. About 2 minutes.
timeout 150 python -m benchmarks.stage_steps --device cuda > "$OUT/stage_steps.log" || failed=1
tail -n 1 "$OUT/stage_steps.log"

# The order study with five seeds, in what is left of 470 seconds. It is stopped as by Ctrl-C, which saves
# what there is: the last command again goes on with it.
left=$((470 - $(date +%s) + started))
timeout --signal=INT --kill-after=20 "$left" \
    python main.py study Folder_Pairs --config records/gpu_stages/suite.py || failed=1
exit "$failed"
