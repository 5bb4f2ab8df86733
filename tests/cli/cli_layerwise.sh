#!/bin/sh
# qbound certify --layerwise-statistics: an estimate for every network, a guarantee for stochastic rounding alone; what
# is printed, the schema, the same bytes for any number of threads, what is refused.
. tests/cli/common
cp "$root/examples/demo/digits.onnx" digits.onnx
"$QBOUND" quantize digits.onnx -o drawn.onnx --scheme stochastic --seed 5 >/dev/null
"$QBOUND" quantize digits.onnx -o w4.onnx --bits 4 >/dev/null
"$QBOUND" quantize digits.onnx -o moved.onnx --scheme stochastic --equalize range >/dev/null
layerwise() { # NETWORK CERTIFICATE OPTION..
  other=$1 to=$2
  shift 2
  "$QBOUND" certify digits.onnx $other -o $to --statistical digits:40:3 --preprocess unit --layerwise-statistics "$@"
}

layerwise drawn.onnx drawn.json >printed.txt
layerwise w4.onnx w4.json >>printed.txt
layerwise moved.onnx moved.json >/dev/null
for file in drawn w4 moved; do
  "$tool" check "$root/docs/schema/certificate.json" <$file.json || fail "the schema does not hold for $file.json"
  [ "$(json statistical.layerwise.kind <$file.json)" = estimate ] || fail "$file.json: the estimate is not called so"
done
grep -q '^Estimate, .*nothing here is guaranteed' printed.txt || fail "the estimate is printed as something else"
grep -q 'each of the first 8 inputs alone, before the seed' printed.txt || fail "the guarantee does not say what it is about"
grep -q 'no guarantee before the draw: the weights were not rounded stochastically' printed.txt || fail "no reason for w4"

of() { json "statistical.layerwise.$1" <drawn.json; }
[ "$(of stochastic_rounding.kind)" = guarantee ] || fail "stochastic rounding gives no guarantee"
[ "$(of stochastic_rounding.above) $(of above)" = "0 0" ] || fail "something exceeds its bound"
holds "$(of bound) >= $(of measured_quantile)" "the estimate is below what was measured"
holds "$(of recursion) >= $(of bound)" "the recursion is below the end-to-end form"
holds "$(of measured_max) >= $(of measured_quantile)" "the largest change is not the largest"
holds "$(of stochastic_rounding.bound) >= $(of stochastic_rounding.bound_first)" "the largest bound is not the largest"
holds "$(of stochastic_rounding.bound_first) > $(of stochastic_rounding.measured_first)" "the guarantee is below the change"
[ "$(json statistical.layerwise.stochastic_rounding <w4.json)" = null ] || fail "a guarantee without a draw"
json statistical.layerwise.why_not <moved.json | grep -q preparation || fail "equalized weights are not refused"

layerwise drawn.onnx again.json --threads 1 >/dev/null
"$tool" drop timing <again.json >again.txt
"$tool" drop timing <drawn.json | cmp - again.txt || fail "another number of threads, another certificate"
status=0
"$QBOUND" check drawn.json digits.onnx drawn.onnx --json >check.json || status=$?
[ "$status $(json statistical <check.json)" = "3 limits follow" ] || fail "the check: $status, $(json why <check.json)"

run certify digits.onnx w4.onnx -o no.json --preprocess unit --layerwise-statistics
run certify digits.onnx w4.onnx -o no.json --preprocess unit --statistical digits:1:3 --layerwise-statistics
[ ! -e no.json ] || fail "a certificate was written"
finish
