# About an hour on one core with AMX.
set -e
export OUT="${OUT:-out/cifar10_long}"
mkdir -p "$OUT"
root=$PWD; cd "$OUT"
python "$root/main.py" --config "$root/configs/cifar10_long.py" --set dataset_args.root="$CIFAR10_JPEG" --baseline reuse
