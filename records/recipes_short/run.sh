# The last row's network; the others were variants of it that no file was kept of.
set -e
export OUT="${OUT:-out/recipes_short}"
mkdir -p "$OUT"
root=$PWD; cd "$OUT"
python "$root/main.py" --config "$root/configs/cifar10_muon.py" --set dataset_args.root="$CIFAR10_JPEG" --set training_args.initial_train_epochs=4 --set dataset_args.validation_share=0.1
