set -e
export OUT="${OUT:-out/training_avx2}"
mkdir -p "$OUT"
python -m benchmarks.training > "$OUT/training.log"
