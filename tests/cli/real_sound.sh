#!/bin/sh
# On real images the error of the quantized network, both run in double, never exceeds the certified graph bound.
. tests/cli/common

# sound MODEL DATA PREPROCESS SAMPLES [METHODS]
sound() {
  methods=${5:-layerwise}
  begin "$(basename "$1" .onnx)" "$1" "$2" || return 0
  for bits in 3 8; do
    "$QBOUND" quantize "$data/$1" -o q.onnx --bits $bits --granularity tensor >/dev/null || fail "$1: quantize"
    "$QBOUND" bound "$data/$1" --bits $bits --preprocess "$3" --method "$methods" --json >bound.json || fail "$1: bound"
    "$QBOUND" measure "$data/$1" q.onnx --data "$data/$2" --preprocess "$3" --samples "$4" --batch 2 --reference --json \
      >measure.json || fail "$1: measure"
    error=$(json other.error.max <measure.json) best=$(json rows.0.bounds.best.log10 <bound.json)
    echo "$bits bits: error $error on $4 images, proved at most $(json rows.0.bounds.best.value <bound.json)"
    holds "log($error) / log(10) <= $best" "$1: $bits bits: error and bound"
    for name in $(echo "$methods" | tr , ' '); do
      [ "$(json rows.0.bounds.$name.applies <bound.json)" = true ] || fail "$1: $name does not apply"
      holds "log($error) / log(10) <= $(json rows.0.bounds.$name.log10 <bound.json)" "$1: $bits bits: $name"
    done
  done
  end
}
sound imagenet/mobilenetv2_imagenet_folded.onnx imagenet/validation imagenet-224 4 layerwise,spectral
sound imagenet/resnet18_pqf_imagenet_bn.onnx.gz imagenet/validation imagenet-224 2
sound imagenet/squeezenet11_imagenet.onnx imagenet/validation imagenet-224 4
sound cifar10/resnet20_cifar10_bn.onnx cifar10/test_1000.bin imagenet-norm 20 layerwise,interval,spectral
sound cifar10/resnet56_cifar10_bn.onnx cifar10/test_1000.bin imagenet-norm 10
sound cifar10/resnet8_mlperftiny_cifar10_bn.onnx cifar10/test_1000.bin raw 50 layerwise,interval,spectral
for model in lenet mlp2 mlp3 mlp5 mlp7 mlp9 mlp11; do
  sound mnist/${model}_mnist.onnx mnist/t10k-images-idx3-ubyte.gz unit 200 layerwise,interval,spectral
done
finish_cases
