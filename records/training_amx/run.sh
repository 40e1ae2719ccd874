set -e
export OUT="${OUT:-out/training_amx}"
mkdir -p "$OUT"
python -m benchmarks.training > "$OUT/training.log"
