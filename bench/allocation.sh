#!/bin/sh
# Bits chosen layer by layer: allocation.sh BUILD_DIR [NETWORK..] writes bench/results/allocation.csv, and with the name
# `promise` (or without names) bench/results/allocation_promise.csv. Networks and images come from the folder
# QBOUND_DATA (default ../shared/data); without it nothing is done. With names only those rows are measured again.
#
# allocation.csv: `--bits auto --average-bits B` against uniform B bits, the same scheme and calibration samples for
# both, no test image seen by either. wins and losses are images that only one decides rightly, with the exact McNemar
# p; below 0.05 the result is called better or worse, else a tie. error: mean over test images of the largest change of
# an output. bytes: codes and scales as stored (2, 4, or 8 bits a code, 3 take 4 and 5 take 8). plan_s: wall time to
# find the plan. The ResNet-18 weights were decoded from a product-quantized release.
#
# allocation_promise.csv: `--max-flip-rate 0.02 --confidence 0.99` on ResNet-20. Training images calibrate and select,
# test images 1-500 verify, 501-1000 are run once with the network that was written.
set -eu
build=$1
shift
data=${QBOUND_DATA:-../shared/data}
out=bench/results
[ -d "$data" ] || { echo "allocation: skipped, there is no $data"; exit 0; }
[ -n "${NO_BUILD:-}" ] || cmake --build "$build" --target bench_allocation qbound_cli
mkdir -p "$out"
export OMP_WAIT_POLICY=passive
header=network,scheme,grid,bits,auto_average_bits,rule,images,float_top1,uniform_top1,auto_top1,wins,losses,mcnemar_p
header=$header,verdict,uniform_flips,auto_flips,uniform_error,auto_error,error,uniform_bytes,auto_bytes,plan_s
table=$out/allocation.csv
[ -f "$table" ] || echo "$header" >"$table"

cifar() {
  "$build/bench/bench_allocation" "$1" "$data/cifar10/$1_cifar10_bn.onnx" "$data/cifar10/train_2000.bin" 512 \
    "$data/cifar10/test_1000.bin" imagenet-norm gptq mse 4 3
}

imagenet() { # NAME FILE
  "$build/bench/bench_allocation" "$1" "$data/imagenet/$2" "$data/imagenet/calibration" "${SAMPLES:-256}" \
    "$data/imagenet/validation" imagenet-224 gptq mse ${BITS:-4 3}
}

measure() {
  case $1 in
  resnet20 | resnet56) cifar "$1" ;;
  mobilenetv2) imagenet "$1" mobilenetv2_imagenet_folded.onnx ;;
  resnet18) imagenet "$1" resnet18_pqf_imagenet_bn.onnx.gz ;;
  *) echo "allocation: no network '$1'" >&2; return 2 ;;
  esac
}

promise() {
  model=$data/cifar10/resnet20_cifar10_bn.onnx
  work=$(mktemp -d)
  "$build/qbound" quantize "$model" -o "$work/q.onnx" --json --bits auto --max-flip-rate 0.02 --confidence 0.99 \
    --scheme gptq --grid mse --bias-correction --calibrate "$data/cifar10/train_2000.bin" \
    --preprocess imagenet-norm --verify "$data/cifar10/test_1000.bin" --verify-samples 500 >"$work/q.json" || true
  "$build/qbound" measure "$model" "$work/q.onnx" --json --data "$data/cifar10/test_1000.bin" \
    --preprocess imagenet-norm --skip 500 >"$work/m.json"
  {
    echo network,kept,rule,average_bits,verified,flips_allowed,flip_rate_upper,tests,later_images,later_flips,later_rate
    python3 - "$work/q.json" "$work/m.json" <<'PYTHON'
import json, sys
a = json.load(open(sys.argv[1]))["allocation"]
m = json.load(open(sys.argv[2]))
tests = " ".join(f"{t['average_bits']:.2f}:{t['flips']}{'+' if t['passed'] else '-'}" for t in a["tests"])
print("resnet20", int(a["kept"]), a["rule"], f"{a['average_bits']:.4f}", a["verified"], a["flips_allowed"],
      f"{a['reached']:.5f}", tests, m["images"], round(m["other"]["flips"] * m["images"]), f"{m['other']['flips']:.4f}",
      sep=",")
PYTHON
  } >"$out/allocation_promise.csv"
  rm -r "$work"
}

[ $# -gt 0 ] || set -- resnet20 promise resnet56 mobilenetv2 resnet18
for network; do
  if [ "$network" = promise ]; then
    promise
  else
    measure "$network" >"$table.part"
    { grep -v "^$network," "$table" || true; cat "$table.part"; } >"$table.new"
    mv "$table.new" "$table"
    rm -f "$table.part"
  fi
  echo "allocation: $network done"
done
