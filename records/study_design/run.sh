# About 35 minutes on one core.
set -e
export OUT="${OUT:-out/study_design}"
mkdir -p "$OUT"
python -m benchmarks.study_design > "$OUT/study_design.log"
