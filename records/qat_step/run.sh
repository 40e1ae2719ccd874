set -e
export OUT="${OUT:-out/qat_step}"
mkdir -p "$OUT"
python -m benchmarks.qat_step > "$OUT/qat_step.log"
