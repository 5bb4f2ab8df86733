#!/bin/sh
# Float accuracy of the CIFAR-10 and MNIST networks equals what PyTorch measured, within 0.2 points; the Tiny ImageNet
# networks (measured there on 10,000 images, here on the first 500 of ours) come close.
. tests/cli/common

# accuracy MODEL TOP1 POINTS DATA PREPROCESS [ARG..]
accuracy() {
  model=$1 expected=$2 points=$3 images=$4 how=$5
  shift 5
  begin "$(basename "$model" .onnx)" "$model" "$images" || return 0
  "$QBOUND" measure "$data/$model" --data "$data/$images" --preprocess "$how" --batch 50 --json "$@" >report ||
    fail "$model: qbound measure fails"
  echo "$(json images <report) images, top-1 $(json top1 <report), $(json timing.images_per_second <report) images/s"
  holds "(100 * $(json top1 <report) - $expected)^2 <= $points^2" "$model: top-1"
  end
}
accuracy cifar10/resnet20_cifar10_bn.onnx 91.50 0.2 cifar10/test_1000.bin imagenet-norm
accuracy cifar10/resnet56_cifar10_bn.onnx 92.60 0.2 cifar10/test_1000.bin imagenet-norm
accuracy cifar10/resnet8_mlperftiny_cifar10_bn.onnx 88.10 0.2 cifar10/test_1000.bin raw
mnist=mnist/t10k-images-idx3-ubyte.gz
accuracy mnist/lenet_mnist.onnx 98.95 0.2 $mnist unit
accuracy mnist/mlp2_mnist.onnx 98.10 0.2 $mnist unit
accuracy mnist/mlp3_mnist.onnx 98.19 0.2 $mnist unit
accuracy mnist/mlp5_mnist.onnx 98.37 0.2 $mnist unit
accuracy mnist/mlp7_mnist.onnx 98.40 0.2 $mnist unit
accuracy mnist/mlp9_mnist.onnx 98.44 0.2 $mnist unit
accuracy mnist/mlp11_mnist.onnx 98.22 0.2 $mnist unit
tiny=resize=128:crop=128:scale=255:mean=0.485,0.456,0.406:std=0.229,0.224,0.225
accuracy tiny-imagenet/mobilenetv2_gluon_tinyimagenet_bn.onnx 49.8 4 tiny-imagenet/validation $tiny --samples 500
accuracy tiny-imagenet/resnet18_ktb_tinyimagenet_bn.onnx.gz 49.1 4 tiny-imagenet/validation $tiny --samples 500
finish_cases
