set -e
export OUT="${OUT:-out/cifar10_gpu}"
mkdir -p "$OUT"
root=$PWD; cd "$OUT"
python "$root/main.py" --config "$root/configs/cifar10_gpu.py" --set dataset_args.root="$CIFAR10_JPEG" --set dataset_args.name=ImageFolder
