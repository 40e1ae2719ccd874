# About 80 minutes on one core with AMX, beside another training.
set -e
export OUT="${OUT:-out/hundredfold}"
python main.py --config records/hundredfold/suite.py --set dataset_args.root="$CIFAR10_JPEG" --baseline reuse
