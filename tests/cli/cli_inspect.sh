#!/bin/sh
# qbound inspect on the demo network: the table, the JSON, its schema.
. tests/cli/common
cp "$root/examples/demo/digits.onnx" digits.onnx
run inspect digits.onnx
run inspect digits.onnx --spectral
run inspect digits.onnx --json
"$QBOUND" inspect digits.onnx --json >report.json
"$tool" check "$root/docs/schema/inspect.json" <report.json || fail "the schema does not hold"
"$QBOUND" inspect digits.onnx --json --threads 1 | cmp - report.json || fail "another number of threads, other bytes"
gzip -n -c digits.onnx >digits.onnx.gz
"$QBOUND" inspect digits.onnx.gz --json | "$tool" get layers >a
"$tool" get layers <report.json | cmp - a || fail "the gzip form of a file has other layers"

# What is not supported is listed with the reason, and so is the rest.
cp "$here"/files/*.onnx .
for file in unsupported control_flow nan_weight cycle chain; do run inspect $file.onnx; done
"$QBOUND" inspect unsupported.onnx --json | "$tool" check "$root/docs/schema/inspect.json" || fail "the schema"
run bound unsupported.onnx --domain 1
run quantize control_flow.onnx -o no.onnx
run measure nan_weight.onnx --data digits
finish
