# About an hour and three quarters on one core with AMX, beside another training: a baseline of 24 epochs, then 6 + 6 networks of 5 epochs and 2 of 24.
set -e
export OUT="${OUT:-out/pruning_goals}"
mkdir -p "$OUT"
root=$PWD; cd "$OUT"
python "$root/main.py" --config "$root/configs/cifar10_folder.py" --set dataset_args.root="$CIFAR10_JPEG" \
    --set 'deployment_args.engines=["onnxruntime"]' --only Serial_Baseline_FP32 --baseline reuse
cd "$root"
cut() {  # cut FILE OPTION...
    file="$OUT/$1"; shift
    python -m benchmarks.pruning --root "$CIFAR10_JPEG" --no-speed --json "$file" \
        --baseline "$OUT/saved_models/Serial_Baseline_FP32_fp32_baseline.pth" --methods ours stock \
        --optimizer muon --scope uniform --round-to 1 --criterion l2 --candidates 24 "$@"
}
cut third.json --removed 0.3 --seeds 0 1 2 --rate 4e-3
cut half_64.json --removed 0.5 --seeds 3 4 5 --rate 3e-3 --batch-size 64
cut half_long.json --removed 0.5 --seeds 0 --rate 4e-3 --epochs 24
