set -e
export OUT="${OUT:-out/executors}"
mkdir -p "$OUT"
python -m benchmarks.executors > "$OUT/executors.log"
