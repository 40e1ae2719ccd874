# About 50 minutes on one core with AMX, beside another training.
set -e
export OUT="${OUT:-out/hundredfold_resnet}"
python main.py --config records/hundredfold_resnet/suite.py --set dataset_args.root="$CIFAR10_JPEG" --baseline reuse
