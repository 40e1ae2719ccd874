set -e
export OUT="${OUT:-out/training_zen4}"
mkdir -p "$OUT"
python -m benchmarks.training > "$OUT/training.log"
