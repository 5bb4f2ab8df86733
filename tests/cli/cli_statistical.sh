#!/bin/sh
# qbound certify --statistical on drawn digits: the claims, their sharing, what is refused, the same bytes for any
# number of threads.
. tests/cli/common
cp "$root/examples/demo/digits.onnx" digits.onnx
# errors depend on the processor in their last digits
filter() { sed -E 's/error above [0-9.e+-]+/error above E/; s/^ +[0-9.e+-]+ +([0-9.]+ %)$/  E  \1/'; }
"$QBOUND" quantize digits.onnx -o w4.onnx --bits 4 >/dev/null
"$QBOUND" quantize digits.onnx -o gptq.onnx --bits 4 --scheme gptq --calibrate digits:300:7 --preprocess unit >/dev/null

run certify digits.onnx w4.onnx -o one.json --statistical digits:1000:3 --preprocess unit
run certify digits.onnx w4.onnx -o five.json --statistical digits:1000:3 --preprocess unit --candidates 5 --confidence 0.95
run certify digits.onnx w4.onnx -o few.json --statistical digits --samples 60 --skip 40 --preprocess unit
run certify digits.onnx w4.onnx -o both.json --statistical digits:100:3 --domain 0,1 --preprocess unit --no-search --method layerwise
"$QBOUND" certify digits.onnx gptq.onnx -o apart.json --statistical digits:150:9 --preprocess unit >/dev/null
for file in one five few both apart; do
  "$tool" check "$root/docs/schema/certificate.json" <$file.json || fail "the schema does not hold for $file.json"
done
[ "$(json statistical.calibration_samples <apart.json)" = 300 ] || fail "the calibration samples are not counted"
"$QBOUND" certify digits.onnx w4.onnx -o again.json --statistical digits:1000:3 --preprocess unit --threads 1 >/dev/null
"$tool" drop timing <again.json >again.txt
"$tool" drop timing <one.json | cmp - again.txt || fail "another number of threads, another certificate"
"$QBOUND" certify digits.onnx w4.onnx -o double.json --statistical digits:100:3 --preprocess unit --reference >/dev/null
[ "$(json statistical.evaluation <double.json)" = double ] || fail "the evaluation is not named"

# Inputs that made the network, all of them or one, also behind --skip.
run certify digits.onnx gptq.onnx -o no.json --statistical digits:300:7 --preprocess unit
run certify digits.onnx gptq.onnx -o no.json --statistical digits:1000:7 --skip 299 --preprocess unit
# The same input twice.
grey() { head -c 784 /dev/zero | tr '\0' "\\$1"; }
{
  printf '\0\0\10\3\0\0\0\4\0\0\0\34\0\0\0\34'
  grey 11
  grey 77
  grey 12
  grey 77
} >grey-images-idx3-ubyte
run certify digits.onnx w4.onnx -o no.json --statistical grey-images-idx3-ubyte --preprocess unit
run certify digits.onnx w4.onnx -o grey.json --statistical grey-images-idx3-ubyte --samples 3 --preprocess unit
# Senseless requests.
run certify digits.onnx w4.onnx -o no.json --statistical digits:50:3 --preprocess unit --confidence 1
run certify digits.onnx w4.onnx -o no.json --statistical digits:50:3 --preprocess unit --confidence 99%
run certify digits.onnx w4.onnx -o no.json --statistical digits:50:3 --preprocess unit --candidates 0
run certify digits.onnx w4.onnx -o no.json --statistical digits:50:3 --preprocess imagenet
run certify digits.onnx w4.onnx -o no.json --statistical missing --preprocess unit
[ ! -e no.json ] || fail "a certificate was written"
finish
