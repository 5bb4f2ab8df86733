#!/bin/sh
# What held-out images show about quantized networks: statistical.sh BUILD_DIR writes bench/results/statistical.csv.
# Networks and images come from the folder QBOUND_DATA (default ../shared/data); without it nothing is done. Each row is
# a certificate of its own at 99 %: with that confidence all its limits hold together for fresh images of the same kind.
# Rows are not corrected for each other (`certify --candidates` does that for networks among which one is chosen).
# The ResNet-18 weights were decoded from a product-quantized release; the classifier of this MobileNetV2 lies on an
# 8-bit grid already and stays as it is with 8 bits. seconds is wall time on whatever else the machine did.
set -eu
build=$1
data=${QBOUND_DATA:-../shared/data}
qbound=$build/qbound
[ -d "$data" ] || { echo "statistical: skipped, there is no $data"; exit 0; }
cmake --build "$build" --target qbound_cli json_tool
table=bench/results/statistical.csv
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_WAIT_POLICY=passive
up() { awk "BEGIN { x = $1 * 1e6; printf \"%.6f\", (int(x) + (x > int(x))) / 1e6 }"; } # six decimals, rounded up
get() { "$build/json_tool" get "$1" <"$work/certificate.json"; }

# row NETWORK FILE DATA PREPROCESS BITS [QUANTIZE OPTION..]
row() {
  name=$1 file=$2 images=$3 how=$4 bits=$5
  shift 5
  "$qbound" quantize "$data/$file" -o "$work/quantized.onnx" --bits "$bits" "$@" >/dev/null
  "$qbound" certify "$data/$file" "$work/quantized.onnx" -o "$work/certificate.json" --statistical "$data/$images" \
    --preprocess "$how" >"$work/text"
  cat "$work/text" >&2
  echo "$name,uniform,$bits,channel,$(get statistical.n),0.99,$(get statistical.claims),$(
    get statistical.flips),$(up "$(get statistical.flip_rate_upper)"),$(get statistical.lost),$(get statistical.gained),$(
    up "$(get statistical.accuracy_loss_upper)"),$(up "$(get statistical.error_quantiles.0.error)"),$(
    up "$(get statistical.error_quantiles.0.exceedance)"),$(printf %.1f "$(get timing.seconds)")"
}

{
  echo "network,scheme,bits,granularity,images,confidence,claims,flips,flip_rate_upper,lost,gained,accuracy_loss_upper,largest_error,exceedance,seconds"
  row resnet20 cifar10/resnet20_cifar10_bn.onnx cifar10/test_1000.bin imagenet-norm 8
  row resnet20 cifar10/resnet20_cifar10_bn.onnx cifar10/test_1000.bin imagenet-norm 4
  row resnet56 cifar10/resnet56_cifar10_bn.onnx cifar10/test_1000.bin imagenet-norm 8
  row resnet18 imagenet/resnet18_pqf_imagenet_bn.onnx.gz imagenet/validation imagenet-224 8
  row mobilenetv2 imagenet/mobilenetv2_imagenet_folded.onnx imagenet/validation imagenet-224 8
} >"$table.part"
mv "$table.part" "$table"
echo "statistical: done"
