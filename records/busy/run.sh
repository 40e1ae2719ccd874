set -e
export OUT="${OUT:-out/busy}"
mkdir -p "$OUT"
python -m benchmarks.busy > "$OUT/busy.log"
