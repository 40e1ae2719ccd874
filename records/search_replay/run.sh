set -e
export OUT="${OUT:-out/search_replay}"
mkdir -p "$OUT"
python -m benchmarks.search --repetitions 51 --wishes "accuracy_drop<=2, min bitops" "accuracy_drop<=1, min model_size_mb" > "$OUT/search.log"
