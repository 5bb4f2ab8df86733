#!/bin/sh
# Efficiency of `measure` under mpirun: one thread alone beside ranks of one thread each, alternating, best of three.
#   sh bench/mpi.sh [DATA]      after ./dev test or: cmake --preset mpi && cmake --build --preset mpi
# DATA is a folder like the one that QBOUND_DATA names. Prints CSV: what ran, ranks, samples, seconds, efficiency.
set -eu
cd "$(dirname "$0")/.."
data=${1:-${QBOUND_DATA:-../shared/data}}
qbound=$(pwd)/build/mpi/qbound
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

seconds() { # RANKS ARG..: of the networks and reading, the slowest rank's
  count=$1
  shift
  mpirun -q --oversubscribe -n "$count" "$qbound" measure "$@" --threads 1 --json </dev/null |
    sed -E 's/.*"timing":\{[^}]*"seconds":([0-9.e+-]+).*/\1/'
}

compare() { # NAME SAMPLES MODEL ARG..
  name=$1 samples=$2
  shift 2
  for try in 1 2 3; do
    echo "$(seconds 1 "$@" --samples "$samples") $(seconds 2 "$@" --samples "$samples")"
  done | awk -v name="$name" -v samples="$samples" '
    { if (NR == 1 || $1 < one) one = $1; if (NR == 1 || $2 < two) two = $2 }
    END { printf "%s,1,%d,%.3f,1\n%s,2,%d,%.3f,%.3f\n", name, samples, one, name, samples, two, one / (2 * two) }'
}

echo "network,ranks,samples,seconds,efficiency"
"$qbound" quantize "$data/cifar10/resnet20_cifar10_bn.onnx" -o "$work/r20.onnx" >/dev/null
compare resnet20 1000 "$data/cifar10/resnet20_cifar10_bn.onnx" "$work/r20.onnx" --data "$data/cifar10/test_1000.bin" \
  --preprocess imagenet-norm
"$qbound" quantize "$data/imagenet/mobilenetv2_imagenet_folded.onnx" -o "$work/m.onnx" >/dev/null
compare mobilenetv2 800 "$data/imagenet/mobilenetv2_imagenet_folded.onnx" "$work/m.onnx" \
  --data "$data/imagenet/validation" --preprocess imagenet-224
