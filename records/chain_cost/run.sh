set -e
export OUT="${OUT:-out/chain_cost}"
mkdir -p "$OUT"
python -m benchmarks.chain_cost > "$OUT/chain_cost.log"
