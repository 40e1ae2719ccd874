set -e
export OUT="${OUT:-out/hundredfold_one_seed}"
mkdir -p "$OUT"
root=$PWD; cd "$OUT"
python "$root/main.py" --config "$root/configs/hundredfold_folder.py" --set dataset_args.root="$CIFAR10_JPEG"
