set -e
export OUT="${OUT:-out/networks_as_published}"
mkdir -p "$OUT"
python -m pytest tests/networks tests/methods/test_costs.py > "$OUT/networks.log"
