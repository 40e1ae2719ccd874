# About four minutes on one core with AVX2.
set -e
export OUT="${OUT:-out/order_study_networks}"
mkdir -p "$OUT"
root=$PWD; cd "$OUT"
python "$root/main.py" study Networks --config "$root/configs/order_study_networks.py"
