#!/bin/sh
# qbound bound on the demo network: the table, domains, conventions; what decreases must decrease.
. tests/cli/common
cp "$root/examples/demo/digits.onnx" digits.onnx
filter() { sed 's/"timing":{[^}]*}/"timing":{}/'; }
run bound digits.onnx --preprocess unit --bits 2,4,8,16
run bound digits.onnx --domain 1 --bits 8 --scheme round,uniform --granularity tensor,channel
run bound digits.onnx --domain 0,1 --bits 8 --affine
run bound digits.onnx --preprocess unit --bits 4 --bias drop --batchnorm drop --downsample out --width channels
run bound digits.onnx --domain 1 --bits 8 --json
run bound digits.onnx --preprocess imagenet --bits 8
run bound digits.onnx --preprocess nonsense --bits 8

# a chain without biases, for which the published theorems hold
cp "$here/files/chain.onnx" .
run bound chain.onnx --domain 1 --bits 4,8 --method all
run bound chain.onnx --domain 1 --method layerwise,guess

"$QBOUND" bound digits.onnx --preprocess unit --json >report.json
"$tool" check "$root/docs/schema/bound.json" <report.json || fail "the schema does not hold"
[ "$(json 'rows.#' <report.json)" = 15 ] || fail "not 15 rows"
for name in delta bounds.prior.log10 bounds.general.log10 bounds.cnn.log10 bounds.chain_unsummed.log10; do
  for row in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do
    before=$(json "rows.$((row - 1)).$name" <report.json)
    now=$(json "rows.$row.$name" <report.json)
    holds "$now < $before" "$name in row $row"
  done
done
for row in 0 6 14; do
  holds "$(json "rows.$row.bounds.best.log10" <report.json) <= $(json "rows.$row.bounds.layerwise.log10" <report.json)" best
done

# The same bytes again, and with another number of threads, but for the timing.
"$tool" drop timing <report.json >plain.json
"$QBOUND" bound digits.onnx --preprocess unit --json | "$tool" drop timing | cmp - plain.json || fail "other bytes"
"$QBOUND" bound digits.onnx --preprocess unit --json --threads 1 | "$tool" drop timing | cmp - plain.json ||
  fail "another number of threads, other bytes"
finish
