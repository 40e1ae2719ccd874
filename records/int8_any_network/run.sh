set -e
export OUT="${OUT:-out/int8_any_network}"
mkdir -p "$OUT"
python -m benchmarks.inference --quick --networks torchvision:resnet18 torchvision:mobilenet_v3_small --batches 1 8 --threads 1 > "$OUT/inference.log"
