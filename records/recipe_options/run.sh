# About an hour on one core with AMX, beside another training.
set -e
export OUT="${OUT:-out/recipe_options}"
python main.py --config records/recipe_options/suite.py --set dataset_args.root="$CIFAR10_JPEG" --baseline reuse
