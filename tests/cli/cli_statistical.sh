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

# The checker proves the limits again and never calls what was measured verified; whatever is changed is noticed.
run check one.json digits.onnx w4.onnx
run check both.json digits.onnx w4.onnx
for file in one five few both apart double; do
  other=w4.onnx
  [ $file != apart ] || other=gptq.onnx
  status=0
  "$QBOUND" check $file.json digits.onnx $other --json >check.json || status=$?
  "$tool" check "$root/docs/schema/check.json" <check.json || fail "the schema of the check does not hold"
  [ "$status $(json statistical <check.json)" = "3 limits follow" ] || fail "$file.json: $status, $(json why <check.json)"
done
plant() { # FILE WANTED SED-SCRIPT
  sed -E "$3" "$1" >planted.json
  ! cmp -s "$1" planted.json || fail "nothing was planted: $3"
  status=0
  "$QBOUND" check planted.json digits.onnx w4.onnx --json >check.json 2>/dev/null || status=$?
  [ "$status" = 1 ] || [ "$(json verdict <check.json)" = REFUTED ] || status=0
  [ $status = "$2" ] || fail "exit $status, not $2, for $3: $(json why <check.json)"
}
limit=$(json statistical.flip_rate_upper <one.json)
plant one.json 3 "s/\"flip_rate_upper\":[0-9.]*/\"flip_rate_upper\":$(awk "BEGIN { printf \"%.15g\", 0.999999 * $limit }")/"
plant one.json 3 's/"flips":14/"flips":15/'
plant one.json 3 's/"flips":14/"flips":11/'
plant one.json 3 's/"confidence":0.99/"confidence":0.991/'
plant one.json 3 's/"claims":8/"claims":7/'
plant one.json 3 's/"candidates":1/"candidates":2/'
plant one.json 3 's/"alpha":0.00124/"alpha":0.00126/'
plant one.json 3 's/"rank":1000/"rank":999/'
plant one.json 3 's/"rank":971/"rank":970/'
plant one.json 3 's/"rank":998/"rank":997/'
plant one.json 1 's/"n":1000/"n":999/'
plant one.json 3 's/"lost":5/"lost":6/'
plant one.json 3 's/"gained":7/"gained":6/'
plant one.json 3 's/("class":4,"n":100,"flips":)0/\11/'
plant one.json 3 's/("class":4,"n":)100/\199/'
plant one.json 3 's/("accuracy_loss_upper":0\.0)1/\10/'
plant one.json 1 's/"n":1000/"n":"many"/'
plant one.json 1 's/"flip_rate_upper":[0-9.]*/"flip_rate_upper":"inf"/'
plant one.json 1 's/"curve":\[[^]]*\]/"curve":[]/'

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
