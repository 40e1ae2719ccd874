set -e
export OUT="${OUT:-out/step_beside_any_network}"
mkdir -p "$OUT"
python -m benchmarks.training > "$OUT/training.log"
