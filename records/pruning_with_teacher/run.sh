# About 70 minutes on one core with AMX: a baseline of 24 epochs, then 12 networks of 5 epochs each.
set -e
export OUT="${OUT:-out/pruning_with_teacher}"
mkdir -p "$OUT"
root=$PWD; cd "$OUT"
python "$root/main.py" --config "$root/configs/cifar10_folder.py" --set dataset_args.root="$CIFAR10_JPEG" \
    --set 'deployment_args.engines=["onnxruntime"]' --only Serial_Baseline_FP32 --baseline reuse
cd "$root"
python -m benchmarks.pruning --root "$CIFAR10_JPEG" --no-speed --json "$OUT/pruning.json" \
    --baseline "$OUT/saved_models/Serial_Baseline_FP32_fp32_baseline.pth" --removed 0.5 0.7 --seeds 0 1 2 --methods ours stock \
    --optimizer muon --rate 4e-3 --scope uniform --round-to 1 --criterion l2 --candidates 24
