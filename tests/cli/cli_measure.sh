#!/bin/sh
# qbound measure on drawn digits: accuracy, errors, data that does not fit, the same result for any batch and threads.
. tests/cli/common
cp "$root/examples/demo/digits.onnx" digits.onnx
"$QBOUND" quantize digits.onnx -o w4.onnx --bits 4 >/dev/null

# images/s is the last column
filter() { sed 's/^\(  [a-z0-9]*\.onnx.*[^ ]\)  *[0-9.]*$/\1  (speed)/'; }
run measure digits.onnx w4.onnx --data digits:25:2 --preprocess unit --reference
run measure digits.onnx --data digits --preprocess unit --samples 20 --skip 5 --label-offset 1
run measure digits.onnx --data missing
run measure digits.onnx --data digits --preprocess imagenet
run measure digits.onnx --data digits --preprocess nonsense=3

measure() { "$QBOUND" measure digits.onnx w4.onnx --data digits --preprocess unit --json "$@"; }
measure --samples 500 >report.json
"$tool" check "$root/docs/schema/measure.json" <report.json || fail "the schema does not hold"
holds "$(json top1 <report.json) >= 0.97" "accuracy on drawn digits"
holds "$(json other.top1 <report.json) >= 0.95" "accuracy with 4 bits"
holds "$(json other.error.max <report.json) >= $(json other.error.p99 <report.json)" "max and p99"
holds "$(json other.error.mean <report.json) > 0" "mean error"

# Batches and threads change nothing but the timing.
measure --samples 100 --threads 2 | "$tool" drop timing >plain.json
measure --samples 100 --threads 1 | "$tool" drop timing | cmp - plain.json || fail "another number of threads"
measure --samples 100 --threads 2 | "$tool" drop timing | cmp - plain.json || fail "the same again"
measure --samples 30 --threads 2 | "$tool" drop timing >plain.json
for batch in 1 7 30; do
  measure --samples 30 --batch $batch --reference | "$tool" drop timing >batch.$batch
  cmp batch.1 batch.$batch || fail "a batch of $batch"
done

# The fast engine agrees with the double loops.
slow=$(json other.error.max <batch.1) fast=$(json other.error.max <plain.json)
holds "($slow - $fast)^2 < 1e-6" "largest error of both engines"
finish
