#!/bin/sh
# qbound report on the demo network: one page that needs nothing else, the same bytes twice, clear refusals.
. tests/cli/common
cp "$root/examples/demo/digits.onnx" digits.onnx
"$QBOUND" quantize digits.onnx -o w4.onnx --bits 4 >/dev/null
"$QBOUND" quantize digits.onnx -o w8.onnx --bits 8 >/dev/null
"$QBOUND" certify digits.onnx w4.onnx -o w4.json --preprocess unit --method layerwise >/dev/null
seq 0 9 | sed 's/^/digit <b>/' >names.txt
report() { "$QBOUND" report digits.onnx w4.onnx --data digits:60:2 --preprocess unit "$@"; }

report --certificate w4.json --class-names names.txt -o a.html --sensitivity 4 --json >report.json
"$tool" check "$root/docs/schema/report.json" <report.json || fail "the schema does not hold"
[ "$(json size_bytes <report.json)" = "$(wc -c <a.html)" ] || fail "the size is wrong"
cp a.html first.html
report --certificate w4.json --class-names names.txt -o a.html --sensitivity 4 --json >/dev/null
cmp first.html a.html || fail "another page"
grep -qE '(src|href)="?(https?:|//)|<script|@import|url\(' a.html && fail "the page fetches something"
for part in 'The 4-bit network takes' 'layerwise bound' 'Share of the bound' '/3/second/second.0/Conv' \
  'digit &lt;b&gt;' 'data:image/png;base64,' "$(sha256sum w4.onnx | cut -d' ' -f1)" 'proved for every input'; do
  grep -qF "$part" a.html || fail "the page does not say '$part'"
done
[ "$(wc -c <a.html)" -lt 3000000 ] || fail "the page is too large"
report -o b.html --sensitivity 0 --inputs 0 --layer /12/Gemm >/dev/null
grep -qF 'nothing on this page is proved' b.html || fail "a page without a certificate does not say so"
grep -qF 'Layer <b>/12/Gemm</b>' b.html || fail "another layer is drawn"

filter() { sed -E 's/: [0-9.]+ kB,/: SIZE,/'; }
run report digits.onnx w4.onnx --data digits:20 --preprocess unit -o c.html --sensitivity 0
rm c.html
run report digits.onnx w8.onnx --data digits:20 --preprocess unit -o c.html --certificate w4.json
run report digits.onnx w4.onnx --data digits:20 --preprocess unit -o c.html --certificate names.txt
run report digits.onnx w4.onnx --data digits:20 --preprocess unit -o c.html --certificate missing.json
run report digits.onnx w4.onnx --data digits:20 --preprocess unit -o c.html --layer none
run report digits.onnx w4.onnx --data digits:20 --preprocess unit -o c.html --class-names missing.txt
run report digits.onnx w4.onnx --data missing -o c.html
run report digits.onnx w4.onnx --data digits:20 --preprocess imagenet -o c.html
cp "$root/tests/cli/files/chain.onnx" .
run report digits.onnx chain.onnx --data digits:20 --preprocess unit -o c.html
run report digits.onnx w4.onnx --data digits:20 --preprocess unit -o folder/c.html --sensitivity 0
[ ! -e c.html ] || fail "a refused report leaves a page"
finish
