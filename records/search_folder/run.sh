# About an hour on one core with AVX2.
set -e
export OUT="${OUT:-out/search_folder}"
mkdir -p "$OUT"
root=$PWD; cd "$OUT"
python "$root/main.py" search Folder_Within_A_Point --config "$root/configs/search_folder.py" --set dataset_args.root="$CIFAR10_JPEG"
