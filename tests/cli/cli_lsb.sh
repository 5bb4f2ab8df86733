#!/bin/sh
# certify --lsb: bounds for codes of activations that may be off by one; the check recomputes them so, and a certificate
# that was made for exact codes does not pass for one.
. tests/cli/common
cp "$root/examples/demo/digits.onnx" .
"$QBOUND" quantize digits.onnx -o a8.onnx --activations 8 --calibrate digits:20:3 --preprocess unit >/dev/null
for method in layerwise interval spectral; do
  "$QBOUND" certify digits.onnx a8.onnx -o exact.json --domain 0,0.001 --method $method --no-search >/dev/null
  "$QBOUND" certify digits.onnx a8.onnx -o off.json --domain 0,0.001 --method $method --no-search --lsb >/dev/null
  "$tool" check "$root/docs/schema/certificate.json" <off.json || fail "the schema does not hold"
  run check exact.json digits.onnx a8.onnx
  run check off.json digits.onnx a8.onnx
  sed 's/"lsb":false/"lsb":true/' exact.json >planted.json
  ! cmp -s exact.json planted.json || fail "nothing was planted"
  run check planted.json digits.onnx a8.onnx
done
# at a sample itself exact evaluation is for exact codes alone
for how in "" --lsb; do
  "$QBOUND" certify digits.onnx a8.onnx -o ball.json --preprocess unit --method layerwise --no-search $how \
    --around digits:1:4 --radius 0 >/dev/null
  json lsb balls.0.method <ball.json
done
# a network so small that no ball comes near its time
"$QBOUND" train-mlp --data digits:200 --layers 3 --width 12 --epochs 1 -o mlp.onnx >/dev/null
"$QBOUND" quantize mlp.onnx -o mlp8.onnx --activations 8 --calibrate digits:20:3 --preprocess unit >/dev/null
for how in "" --lsb; do
  "$QBOUND" certify mlp.onnx mlp8.onnx -o ball$how.json --preprocess unit --method layerwise --no-search $how \
    --around digits:1:4 --radius 0.001 --timeout 600 >/dev/null
  "$QBOUND" check ball$how.json mlp.onnx mlp8.onnx >/dev/null || fail "the ball does not hold"
done
sed 's/"lsb":false/"lsb":true/' ball.json >planted.json
status=0
"$QBOUND" check planted.json mlp.onnx mlp8.onnx >/dev/null || status=$?
[ $status = 3 ] || fail "exit $status for a ball of exact codes"
finish
