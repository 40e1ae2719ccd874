# About 25 minutes on 2 cores with AMX.
set -e
export OUT="${OUT:-out/masks_and_int8}"
mkdir -p "$OUT"
root=$PWD; cd "$OUT"
python "$root/main.py" --config "$root/configs/cifar10_folder.py" --set dataset_args.root="$CIFAR10_JPEG"
