#!/bin/sh
# qbound certify --around: balls on small networks, their JSON, exit status, refusals; boxes of few inputs are cut up.
. tests/cli/common
cp "$root/examples/demo/digits.onnx" .
"$QBOUND" quantize digits.onnx -o digits8.onnx >/dev/null
filter() { sed -E '/^  /s/ +[0-9.]+$/ S/'; } # seconds a ball

run certify digits.onnx digits8.onnx -o zero.json --around digits:2 --radius 0 --preprocess unit --no-search
run certify digits.onnx digits8.onnx -o far.json --around digits:1 --radius 0.001px,1000px --preprocess unit --no-search --timeout 0.05
run certify digits.onnx digits8.onnx -o far.json --around digits:1 --radius 1000px --preprocess unit --no-search --timeout 0.05 --no-flip
run certify digits.onnx digits8.onnx -o no.json --around digits:1 --radius -1 --preprocess unit
run certify digits.onnx digits8.onnx -o no.json --around digits:1 --radius 1cm --preprocess unit
run certify digits.onnx digits8.onnx -o no.json --around digits:1 --preprocess unit
run certify digits.onnx digits8.onnx -o no.json --around digits:1 --radius 1/0 --preprocess unit
run certify digits.onnx digits8.onnx -o no.json --radius 1px --preprocess unit
run certify digits.onnx digits8.onnx -o no.json --preprocess unit --no-flip
run certify digits.onnx digits8.onnx -o no.json --around digits:1 --radius 1 --timeout 0
run certify digits.onnx digits8.onnx -o no.json --around digits:1 --radius 1 --output 10 --preprocess unit
run certify digits.onnx digits8.onnx -o no.json --around missing --radius 1 --preprocess unit
[ ! -e no.json ] || fail "a certificate was written"
# a network so small that no ball comes near its time
"$QBOUND" train-mlp --data digits:200 --layers 2 --width 12 --epochs 1 -o mlp.onnx >/dev/null
"$QBOUND" quantize mlp.onnx -o mlp8.onnx >/dev/null
"$QBOUND" certify mlp.onnx mlp8.onnx -o both.json --around digits:2:7 --radius 0,0.5px --domain 0,1 \
  --timeout 600 --method layerwise >both.txt
for file in zero far both; do
  "$tool" check "$root/docs/schema/certificate.json" <$file.json || fail "the schema does not hold for $file.json"
done
[ "$(json balls.0.decision <zero.json)" = PROVED ] || fail "a single point is decided"
[ "$(json balls.3.index <both.json)" = 1 ] || fail "balls go centre by centre"
holds "$(json balls.1.lower <both.json) <= $(json balls.1.bound <both.json)" "the two sides"
holds "$(json balls.0.lower <both.json) >= 0.999 * $(json balls.0.bound <both.json)" "radius 0 is exact"
"$QBOUND" certify mlp.onnx mlp8.onnx -o again.json --around digits:2:7 --radius 0/3,1/2px --domain 0,1 \
  --timeout 600 --method layerwise --threads 1 >/dev/null
"$tool" drop timing <again.json >again.txt
"$tool" drop timing <both.json | cmp - again.txt || fail "another number of threads, another certificate"
run check zero.json digits.onnx digits8.onnx
finish
