#!/bin/sh
# int8 of five small networks on this processor, and the page of all processors: sh records/int8_cpus/run.sh
# Images: $CIFAR10_JPEG (train/<class>/*.jpg, test/<class>/*.jpg). Figures: $OUT (out/int8_cpus). An
# idle machine; a run that was stopped goes on where it was. To publish a processor: copy processor.json
# to records/int8_cpus/raw/ under its name, and python -m benchmarks.int8_page records/int8_cpus/raw/*.json
set -e
: "${CIFAR10_JPEG:?a folder of images with train/ and test/}"
OUT=${OUT:-out/int8_cpus}
mkdir -p "$OUT"
python -m benchmarks.int8 --config records/int8_cpus/suite.py --set dataset_args.root="$CIFAR10_JPEG" \
    --images "CIFAR-10 (JPEG)" --json "$OUT/processor.json"
python -m benchmarks.int8_page "$OUT/processor.json" --output "$OUT/int8-on-cpus.md"
