#!/bin/sh
# Held-out images and 8-bit weights: with 99 % confidence less than 5 % of images change class; training images that
# calibrated a network are refused, test images are not.
. tests/cli/common

# few_flips NAME MODEL DATA PREPROCESS
few_flips() {
  begin "$1" "$2" "$3" || return 0
  "$QBOUND" quantize "$data/$2" -o w8.onnx >/dev/null || fail "qbound quantize fails"
  "$QBOUND" certify "$data/$2" w8.onnx -o w8.json --statistical "$data/$3" --preprocess "$4" >/dev/null ||
    fail "qbound certify fails"
  "$tool" check "$root/docs/schema/certificate.json" <w8.json || fail "the schema does not hold"
  echo "$(json statistical.flips <w8.json) of $(json statistical.n <w8.json) flip: at most $(json statistical.flip_rate_upper <w8.json)"
  holds "$(json statistical.flip_rate_upper <w8.json) < 0.05" "$1: flip rate"
  status=0
  "$QBOUND" check w8.json "$data/$2" w8.onnx --json >check.json || status=$?
  [ "$status $(json statistical <check.json)" = "3 limits follow" ] || fail "qbound check: $(json why <check.json)"
  end
}
few_flips resnet20 cifar10/resnet20_cifar10_bn.onnx cifar10/test_1000.bin imagenet-norm
few_flips mobilenetv2 imagenet/mobilenetv2_imagenet_folded.onnx imagenet/validation imagenet-224

if begin refused cifar10/resnet20_cifar10_bn.onnx cifar10/train_2000.bin cifar10/test_1000.bin; then
  model=$data/cifar10/resnet20_cifar10_bn.onnx
  "$QBOUND" quantize "$model" -o gptq.onnx --bits 4 --scheme gptq --calibrate "$data/cifar10/train_2000.bin" --samples 64 \
    --preprocess imagenet-norm >/dev/null || fail "qbound quantize fails"
  certify() { "$QBOUND" certify "$model" gptq.onnx -o gptq.json --preprocess imagenet-norm --statistical "$@"; }
  status=0
  certify "$data/cifar10/train_2000.bin" --skip 60 --samples 200 >/dev/null 2>refusal || status=$?
  [ $status = 1 ] && grep -q "4 of its samples .record 60, record 61, record 62, .*gptq.onnx" refusal ||
    fail "training images are not refused: $status $(cat refusal)"
  certify "$data/cifar10/train_2000.bin" --skip 64 --samples 200 >/dev/null || fail "the other images are refused"
  end
fi
finish_cases
