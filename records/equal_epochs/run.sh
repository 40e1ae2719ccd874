# About 80 minutes on one core with AMX, beside another training. $CCT is a checkout of SHI-Labs/Compact-Transformers.
set -e
export OUT="${OUT:-out/equal_epochs}"
: "${CCT:?a checkout of SHI-Labs/Compact-Transformers, commit cd11f09}"
mkdir -p "$OUT"
python -m benchmarks.equal_epochs --peer "$CCT" --root "$CIFAR10_JPEG" --json "$OUT/equal.json" --images 16000 --epochs 15 --seed 0 1 2
