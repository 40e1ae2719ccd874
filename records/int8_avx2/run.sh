set -e
export OUT="${OUT:-out/int8_avx2}"
mkdir -p "$OUT"
python -m benchmarks.inference --quick --networks reference --batches 1 64 > "$OUT/inference.log"
