#!/bin/sh
# qbound certify on small networks: bounds, lower sides, what is written, refusals.
. tests/cli/common
cp "$root/examples/demo/digits.onnx" "$here/files/chain.onnx" .
"$QBOUND" quantize chain.onnx -o chain4.onnx --bits 4 >/dev/null
"$QBOUND" quantize digits.onnx -o digits8.onnx >/dev/null
filter() { sed -E 's/some output does by .*/some output does by L/; s/largest output [0-9]+ and [0-9]+/largest output K and M/; s/lie [0-9.]+ decades/lie N decades/'; } # where the search ends

run certify chain.onnx chain4.onnx -o chain.json --domain 1
run certify chain.onnx chain4.onnx -o one.json --domain 0,1 --output 1 --method layerwise,interval
run certify digits.onnx digits8.onnx -o digits.json --preprocess unit --method layerwise --no-search
run certify chain.onnx chain4.onnx -o every.json --domain 1 --method all
printf '; one box\n(declare-const X_0 Real)\n' >box.vnnlib
awk 'BEGIN { for (i = 0; i < 64; i++) printf "(assert (>= X_%d -0.25))\n(assert (<= X_%d 0.5))\n", i, i }' >>box.vnnlib
awk 'BEGIN { for (i = 0; i < 64; i++) printf "lo%d,hi%d%s", i, i, i < 63 ? "," : "\n"
             for (r = 1; r < 3; r++) for (i = 0; i < 64; i++) printf "-0.25,0.5%s", i < 63 ? "," : "\n" }' >boxes.csv
run certify chain.onnx chain4.onnx -o box.json --box box.vnnlib --no-search
run certify chain.onnx chain4.onnx -o row.json --box boxes.csv --box-row 1 --no-search
run certify chain.onnx chain4.onnx -o no.json --box boxes.csv
run certify chain.onnx chain4.onnx -o no.json --box boxes.csv --box-row 2
run certify digits.onnx digits8.onnx -o no.json --box box.vnnlib
run certify chain.onnx chain4.onnx -o no.json --box missing.vnnlib
run bound chain.onnx --bits 4 --box box.vnnlib
[ "$(json domain.box_sha256 <box.json)" = "$(sha256sum box.vnnlib | cut -d' ' -f1)" ] || fail "the box file's hash"
[ "$(json worst_case.bound <box.json)" = "$(json worst_case.bound <row.json)" ] || fail "two files of one box"
run certify digits.onnx chain4.onnx -o no.json --preprocess unit
run certify chain.onnx chain4.onnx -o no.json --domain 1 --output 99
run certify chain.onnx chain4.onnx -o no.json --domain 1 --method guess
run certify chain.onnx chain4.onnx -o no.json
run certify chain.onnx -o no.json --domain 1
run certify chain.onnx chain4.onnx --domain 1
run certify chain.onnx missing.onnx -o no.json --domain 1
[ ! -e no.json ] || fail "a certificate was written"
for file in chain one digits every box row; do
  "$tool" check "$root/docs/schema/certificate.json" <$file.json || fail "the schema does not hold for $file.json"
done
holds "$(json worst_case.lower <chain.json) <= $(json worst_case.bound <chain.json)" "the two sides"
holds "$(json worst_case.lower <chain.json) > 0" "something is found"
"$QBOUND" certify chain.onnx chain4.onnx -o again.json --domain 1 --threads 1 >/dev/null
"$tool" drop timing <again.json >again.txt
"$tool" drop timing <chain.json | cmp - again.txt || fail "another number of threads, another certificate"
finish
