#!/bin/sh
# qbound train-mlp on drawn digits: it learns, the same twice and for any number of threads, and refuses bad input.
. tests/cli/common
train() { "$QBOUND" train-mlp --data digits:300:1 --test digits:200:2 --width 48 --epochs 80 --batch 16 --rate 0.003 --json "$@"; }
train --layers 3 -o a.onnx >report.json
"$tool" check "$root/docs/schema/train.json" <report.json || fail "the schema does not hold"
holds "$(json accuracy <report.json) > 0.5" "accuracy on the digits it has seen"
[ "$(json settings.layers <report.json)" = 3 ] || fail "the settings are not there"
train --layers 3 --threads 1 -o b.onnx >/dev/null
cmp a.onnx b.onnx || fail "another number of threads gives another file"
train --layers 3 --seed 1 -o c.onnx >/dev/null
if cmp -s a.onnx c.onnx; then fail "another seed gives the same file"; fi

"$QBOUND" measure a.onnx --data digits:200:2 --preprocess unit --json >measured.json
[ "$(json top1 <measured.json)" = "$(json test_accuracy <report.json)" ] || fail "measure gives another accuracy"

run train-mlp
run train-mlp --data digits
run train-mlp --data digits -o d.onnx --layers 0
run train-mlp --data digits -o d.onnx --rate 0
run train-mlp --data missing -o d.onnx
run train-mlp --data digits:100 --epochs 1 -o missing/d.onnx
[ ! -e d.onnx ] || fail "a failed run leaves a file"
finish
