#!/bin/sh
# qbound check: certificates of small networks hold; whatever is changed so that the claim no longer follows is noticed.
. tests/cli/common
cp "$root/examples/demo/digits.onnx" "$here/files/chain.onnx" .
"$QBOUND" quantize chain.onnx -o chain4.onnx --bits 4 >/dev/null
"$QBOUND" quantize chain.onnx -o other.onnx --bits 2 >/dev/null
"$QBOUND" quantize digits.onnx -o digits8.onnx >/dev/null
for method in layerwise interval elementwise two_stage; do
  "$QBOUND" certify chain.onnx chain4.onnx -o $method.json --domain 1 --method $method --no-search >/dev/null
  run check $method.json chain.onnx chain4.onnx
done
"$QBOUND" certify digits.onnx digits8.onnx -o digits.json --preprocess unit --method layerwise --no-search >/dev/null
run check digits.json digits.onnx digits8.onnx

# Plants SED-SCRIPT into a certificate and asks for a status. The change must be one.
plant() { # FILE STATUS SED-SCRIPT
  sed -E "$3" "$1" >planted.json
  ! cmp -s "$1" planted.json || fail "nothing was planted: $3"
  status=0
  "$QBOUND" check planted.json chain.onnx chain4.onnx >/dev/null 2>&1 || status=$?
  [ $status = $2 ] || fail "exit $status, not $2, for $1 with $3"
}
scaled() { awk "BEGIN { printf \"%.9g\", $1 * $2 }"; }
for method in layerwise interval elementwise two_stage; do
  bound=$(json worst_case.bound <$method.json)
  factors="0.5 0.99 0.99999" # elementwise counts the rounding of float32, which the checker does not have
  [ $method = elementwise ] && factors="0.5 0.99"
  for factor in $factors; do
    plant $method.json 3 "s/\"bound\":[^,]*/\"bound\":$(scaled "$bound" $factor)/"
  done
  plant $method.json 0 "s/\"bound\":[^,]*/\"bound\":$(scaled "$bound" 1.5)/"
  plant $method.json 3 's/"runs":\[\[([0-9]*),-1\.0,1\.0/"runs":[[\1,-1.0,1.5/'
  [ $method = two_stage ] || plant $method.json 3 's/"outputs":\[\[-?[0-9.]*/"outputs":[[-0.5/'
  plant $method.json 3 's/("quantized":\{[^}]*"sha256":").{4}/\10000/'
  plant $method.json 3 's/("float":\{[^}]*"sha256":").{4}/\10000/'
  plant $method.json 3 's/"method":"[a-z_]*","bound"/"method":"trust_me","bound"/'
  plant $method.json 1 's/certificate.1/certificate\/9/'
  plant $method.json 1 's/"runs":\[\[/"runs":[[1/'
  plant $method.json 1 's/.$//'
done
run check interval.json chain.onnx other.onnx
run check interval.json chain4.onnx chain.onnx
run check missing.json chain.onnx chain4.onnx
run check chain.onnx chain.onnx chain4.onnx
run check interval.json chain.onnx
"$QBOUND" check interval.json chain.onnx chain4.onnx --json >report.json
"$tool" check "$root/docs/schema/check.json" <report.json || fail "the schema does not hold"

# The weights of the quantized file move and the hash is made to fit: the claim no longer follows.
sha() { sha256sum "$1" | cut -d' ' -f1; }
for method in layerwise elementwise two_stage; do
  sed "s/$(sha chain4.onnx)/$(sha other.onnx)/" $method.json >moved.json
  run check moved.json chain.onnx other.onnx
done
finish
