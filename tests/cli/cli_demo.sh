#!/bin/sh
# qbound demo: exit 0, all parts, the files, what the issue of a demo is: an error below its proved bound.
. tests/cli/common
"$QBOUND" demo -o out >text || fail "qbound demo fails"
for word in 'Every node is supported' 'proved for this network' 'In plain words' 'Next: qbound bound out/digits.onnx'; do
  grep -q "$word" text || { cat text; fail "the text lacks '$word'"; }
done
for file in digits digits_w8 digits_w4; do "$QBOUND" inspect out/$file.onnx >/dev/null || fail "$file.onnx"; done
cmp out/digits.onnx "$root/examples/demo/digits.onnx" || fail "the embedded network is another one"

"$QBOUND" demo -o out --json >report.json
"$tool" check "$root/docs/schema/demo.json" <report.json || fail "the schema does not hold"
for i in 0 1; do
  error=$(json measure.$i.other.error.max <report.json)
  holds "log($error) / log(10) < $(json bound.rows.$i.bounds.best.log10 <report.json)" "error below the bound"
  holds "$(json measure.$i.top1 <report.json) >= 0.97" "float accuracy"
done
[ "$(json measure.0.images <report.json)" = 1000 ] || fail "not 1000 images"
run demo -o out/digits.onnx
finish
