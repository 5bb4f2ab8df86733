#!/bin/sh
# Builds and runs the benchmarks: run.sh BUILD_DIR. Results go to bench/results as CSV. Comparisons need a Python with
# numpy and onnxruntime, named by QBOUND_PYTHON (default python3); without one they are skipped and said so.
set -eu
build=$1
shift
cmake --build "$build" --target bench
python=${QBOUND_PYTHON:-python3}
if "$python" -c 'import numpy, onnxruntime' 2>/dev/null; then
  "$python" bench/executor.py "$build" "$@"
else
  echo "executor: skipped, $python has no onnxruntime"
fi
# Half an hour on two cores; ACCURACY=no leaves it out.
[ "${ACCURACY:-yes}" = no ] || sh bench/accuracy.sh "$build"
sh bench/statistical.sh "$build"
