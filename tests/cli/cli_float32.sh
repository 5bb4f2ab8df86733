#!/bin/sh
# certify --float32: bounds that also hold for evaluation in float32. The check widens what it recomputes likewise; a
# certificate of exact arithmetic does not pass for one, and methods without rules for it say so.
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
"$QBOUND" certify digits.onnx w8.onnx -o exact.json --domain 0,0.001 --method spectral --no-search >/dev/null
sed 's/"evaluation":"exact"/"evaluation":"float32"/' exact.json >planted.json
run check planted.json digits.onnx w8.onnx
sed 's/"evaluation":"exact"/"evaluation":"float16"/' exact.json >planted.json
run check planted.json digits.onnx w8.onnx
# balls have intervals alone
"$QBOUND" certify digits.onnx w8.onnx -o ball.json --preprocess unit --around digits:1:4 --radius 0,0.001 --float32 \
  --no-search >/dev/null
json balls.0.method balls.1.method <ball.json
run check ball.json digits.onnx w8.onnx
finish
