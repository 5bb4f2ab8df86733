#!/bin/sh
# Weights and activations of 8 bits: CIFAR-10 ResNet-20, calibrated on training images, loses at most one point of
# accuracy on test images, with every rule for ranges; 16-bit activations move outputs less.
. tests/cli/common

# activations NAME BITS RULE
activations() {
  model=cifar10/resnet20_cifar10_bn.onnx
  begin "resnet20_$1" "$model" cifar10/train_2000.bin cifar10/test_1000.bin || return 0
  "$QBOUND" quantize "$data/$model" -o out.onnx --activations "$2" --activation-range "$3" --samples 200 \
    --calibrate "$data/cifar10/train_2000.bin" --preprocess imagenet-norm >/dev/null || fail "qbound quantize fails"
  "$QBOUND" measure "$data/$model" out.onnx --data "$data/cifar10/test_1000.bin" --preprocess imagenet-norm \
    --batch 50 --json >report || fail "qbound measure fails"
  echo "top-1 $(json top1 <report) and $(json other.top1 <report), mean error $(json other.error.mean <report)"
  holds "100 * ($(json top1 <report) - $(json other.top1 <report)) <= 1" "resnet20 $1: top-1"
  holds "$(json other.error.mean <report) <= $4" "resnet20 $1: mean error"
  end
}
activations minmax8 8 minmax 1
activations percentile8 8 percentile 1.2
activations mse8 8 mse 1
activations minmax16 16 minmax 0.25
finish_cases
