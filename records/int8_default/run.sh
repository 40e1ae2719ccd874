# About 25 minutes on 2 cores with AMX; the stages were then called one by one on the baseline.
set -e
export OUT="${OUT:-out/int8_default}"
mkdir -p "$OUT"
root=$PWD; cd "$OUT"
python "$root/main.py" --config "$root/configs/cifar10_folder.py" --set dataset_args.root="$CIFAR10_JPEG"
