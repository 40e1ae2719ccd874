set -e
export OUT="${OUT:-out/engines_avx2}"
mkdir -p "$OUT"
python -m benchmarks.inference > "$OUT/inference.log"
python -m benchmarks.inference --threads 2 > "$OUT/two_threads.log"
python -m benchmarks.inference --threads 1 --networks exits > "$OUT/exits.log"
