# About half an hour on one core with AVX2.
set -e
export OUT="${OUT:-out/order_study_digits}"
mkdir -p "$OUT"
root=$PWD; cd "$OUT"
python "$root/main.py" study Digits --config "$root/configs/order_study_digits.py"
