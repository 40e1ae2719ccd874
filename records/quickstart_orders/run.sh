# About 5 minutes on one busy AMX core; offline.
set -e
export OUT="${OUT:-out/quickstart_orders}"
python main.py --config records/quickstart_orders/suite.py --quiet
