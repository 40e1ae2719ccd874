# The commands of commit 617716f: the benchmark has other options and another default recipe since.
set -e
export OUT="${OUT:-out/pruning_tokens}"
mkdir -p "$OUT"
(root=$PWD; cd "$OUT"; python "$root/main.py" --config "$root/configs/cifar10_folder.py" --set dataset_args.root="$CIFAR10_JPEG" --only Serial_Baseline_FP32)
b="$OUT/saved_models/Serial_Baseline_FP32_fp32_baseline.pth"
python -m benchmarks.pruning --root "$CIFAR10_JPEG" --baseline "$b" --removed 0.5 --rate 4e-3 \
  --targets conv ffn head_dim embed --only taylor stock > "$OUT/pruning.log"
