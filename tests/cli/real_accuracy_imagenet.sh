#!/bin/sh
# Float accuracy on 800 ImageNet validation images equals what PyTorch measured, within 0.2 points.
. tests/cli/common

# accuracy MODEL TOP1 TOP5
accuracy() {
  begin "$1" "imagenet/$1" imagenet/validation || return 0
  "$QBOUND" measure "$data/imagenet/$1" --data "$data/imagenet/validation" --preprocess imagenet-224 --json >report ||
    fail "$1: qbound measure fails"
  top1=$(json top1 <report) top5=$(json top5 <report)
  echo "$(json images <report) images, top-1 $top1, top-5 $top5, $(json timing.images_per_second <report) images/s"
  [ "$(json labelled <report)" = 800 ] || fail "$1: not 800 labelled images"
  holds "(100 * $top1 - $2)^2 <= 0.2^2" "$1: top-1"
  holds "(100 * $top5 - $3)^2 <= 0.2^2" "$1: top-5"
  end
}
accuracy mobilenetv2_imagenet_folded.onnx 79.62 93.75
accuracy resnet18_pqf_imagenet_bn.onnx.gz 74.88 92.75
accuracy resnet50_pqf_imagenet_bn.onnx.gz 78.88 93.38
accuracy squeezenet11_imagenet.onnx 70.88 89.88
finish_cases
