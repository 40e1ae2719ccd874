# About 10 minutes a seed on 2 cores with AMX: seed 0; the others with --set training_args.seed=1 and 2.
set -e
export OUT="${OUT:-out/recipes_whole}"
mkdir -p "$OUT"
root=$PWD; cd "$OUT"
python "$root/main.py" --config "$root/configs/cifar10_muon.py" --set dataset_args.root="$CIFAR10_JPEG"
