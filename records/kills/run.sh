# About 5 minutes.
set -e
export OUT="${OUT:-out/kills}"
mkdir -p "$OUT"
python -m pytest -m slow tests/whole/test_kill.py > "$OUT/kills.log"
