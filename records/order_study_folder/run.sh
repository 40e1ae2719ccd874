# About 3 hours on 2 busy cores with AVX2.
set -e
export OUT="${OUT:-out/order_study_folder}"
mkdir -p "$OUT"
root=$PWD; cd "$OUT"
python "$root/main.py" study Folder_Pairs --config "$root/configs/order_study_folder.py" --set dataset_args.root="$CIFAR10_JPEG"
