set -e
export OUT="${OUT:-out/int8_amx}"
mkdir -p "$OUT"
python -m benchmarks.inference --quick --networks reference default pruned --batches 1 8 64 > "$OUT/inference.log"
python -m benchmarks.inference --quick --networks reference default pruned --batches 1 8 64 --threads 1 > "$OUT/one_thread.log"
