# About two hours on one core with AMX, beside another training.
set -e
export OUT="${OUT:-out/orders_of_three_networks}"
python main.py study Three_Networks --config records/orders_of_three_networks/suite.py \
    --set dataset_args.root="$CIFAR10_JPEG"
