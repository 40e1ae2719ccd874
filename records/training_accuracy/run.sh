set -e
export OUT="${OUT:-out/training_accuracy}"
mkdir -p "$OUT"
python -m benchmarks.training_accuracy --root "$CIFAR10_JPEG" --images 12800 --epochs 8 --seeds 5 > "$OUT/training_accuracy.log"
