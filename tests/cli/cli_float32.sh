#!/bin/sh
# certify --float32: bounds that also hold for evaluation in float32. The check widens what it recomputes likewise; a
# certificate of exact arithmetic does not pass for one.
. tests/cli/common
cp "$root/examples/demo/digits.onnx" .
"$QBOUND" quantize digits.onnx -o w8.onnx --bits 8 >/dev/null
run certify digits.onnx w8.onnx -o any.json --domain 0,0.001 --method all --no-search --float32
for method in layerwise elementwise interval; do
  for how in "" --float32; do
    "$QBOUND" certify digits.onnx digits.onnx -o same$how.json --domain 0,0.001 --method $method --no-search $how \
      >/dev/null
    "$tool" check "$root/docs/schema/certificate.json" <same$how.json || fail "the schema does not hold"
    run check same$how.json digits.onnx digits.onnx
  done
  json evaluation lsb <same--float32.json
  sed 's/"evaluation":"exact"/"evaluation":"float32"/' same.json >planted.json
  ! cmp -s same.json planted.json || fail "nothing was planted"
  run check planted.json digits.onnx digits.onnx
done
for method in spectral product; do
  "$QBOUND" certify digits.onnx w8.onnx -o float32.json --domain 0,0.001 --method $method --no-search --float32 >/dev/null
  run check float32.json digits.onnx w8.onnx
  "$QBOUND" certify digits.onnx w8.onnx -o exact.json --domain 0,0.001 --method $method --no-search >/dev/null
  sed 's/"evaluation":"exact"/"evaluation":"float32"/' exact.json >planted.json
  run check planted.json digits.onnx w8.onnx
done
sed 's/"evaluation":"exact"/"evaluation":"float16"/' exact.json >planted.json
run check planted.json digits.onnx w8.onnx
for how in "" --float32; do
  "$QBOUND" certify digits.onnx w8.onnx -o ball$how.json --preprocess unit --around digits:1:4 --radius 0.001 $how \
    --no-search >/dev/null
  json balls.0.method balls.0.decision <ball$how.json
  run check ball$how.json digits.onnx w8.onnx
done
sed 's/"evaluation":"exact"/"evaluation":"float32"/' ball.json >planted.json
run check planted.json digits.onnx w8.onnx
# radius 0 is a box like any other then
"$QBOUND" certify digits.onnx w8.onnx -o point.json --preprocess unit --around digits:1:4 --radius 0 --float32 \
  --no-search >/dev/null
json balls.0.method <point.json
run check point.json digits.onnx w8.onnx
finish
