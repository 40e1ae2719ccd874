set -e
export OUT="${OUT:-out/report}"
mkdir -p "$OUT"
python -m benchmarks.report > "$OUT/report.log"
