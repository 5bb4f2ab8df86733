#!/bin/sh
# What the published bounds and the graph bound must show on real networks.
. tests/cli/common

# sweep MODEL: delta, prior, general, cnn decrease with every bit
sweep() {
  "$QBOUND" bound "$data/$1" --bits 2-16 --preprocess imagenet --json >report || fail "$1: qbound bound fails"
  "$tool" check "$root/docs/schema/bound.json" <report || fail "$1: the schema does not hold"
  [ "$(json 'rows.#' <report)" = 15 ] || fail "$1: not 15 rows"
  for name in delta bounds.prior.log10 bounds.general.log10 bounds.cnn.log10; do
    row=0
    while [ $row -lt 14 ]; do
      holds "$(json rows.$((row + 1)).$name <report) < $(json rows.$row.$name <report)" "$1: $name at row $row"
      row=$((row + 1))
    done
  done
  echo "8 bits, log10: prior $(json rows.6.bounds.prior.log10 <report), general $(json rows.6.bounds.general.log10 \
    <report), cnn $(json rows.6.bounds.cnn.log10 <report), layerwise $(json rows.6.bounds.layerwise.log10 <report)"
}

# below MODEL DECADES: general and cnn at least that far below prior in every row
below() {
  for row in 0 6 14; do
    prior=$(json rows.$row.bounds.prior.log10 <report)
    holds "$(json rows.$row.bounds.general.log10 <report) <= $prior - $2" "$1: general at row $row"
    holds "$(json rows.$row.bounds.cnn.log10 <report) <= $prior - $2" "$1: cnn at row $row"
  done
}

if begin resnet18 imagenet/resnet18_pqf_imagenet_bn.onnx.gz; then
  sweep imagenet/resnet18_pqf_imagenet_bn.onnx.gz
  below resnet18 8
  end
fi
if begin mobilenetv2 imagenet/mobilenetv2_imagenet_folded.onnx; then
  sweep imagenet/mobilenetv2_imagenet_folded.onnx
  below mobilenetv2 40
  holds "$(json rows.6.bounds.layerwise.log10 <report) < 3" "mobilenetv2: layerwise at 8 bits per tensor"
  end
fi
finish_cases
