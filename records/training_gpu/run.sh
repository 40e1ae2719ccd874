set -e
export OUT="${OUT:-out/training_gpu}"
mkdir -p "$OUT"
python -m benchmarks.training --quick > "$OUT/training.log"
