#!/bin/sh
# qbound quantize on the demo network: tables, plans, what is written, the same bytes twice.
. tests/cli/common
# how far folding BatchNorm moves an output, and errors of outputs, depend on the processor's order of float32 sums
filter() {
  sed -E 's/(put back, )[0-9.e-]+ of/\1ROUNDING of/; s/("float_difference":)[0-9.e-]+/\1ROUNDING/
    s/(mean square error of the output[a-z ]* is )[0-9.e-]+(, [a-z ]+ )[0-9.e-]+/\1ERROR\2ERROR/'
}
cp "$root/examples/demo/digits.onnx" digits.onnx
run quantize digits.onnx -o w8.onnx
run quantize digits.onnx -o w4.onnx --bits 4 --granularity tensor --grid mse
run quantize digits.onnx -o w5.onnx --bits 5 --affine --tensor 'Gemm$=8' --tensor '^/0/=float'
run quantize digits.onnx -o w3.onnx --bits 3 --compat
run quantize digits.onnx -o w12.onnx --bits 12 --scheme round
run inspect w5.onnx

printf '# LAYER BITS\n/0/Conv 8\n\n# /12/Gemm 4\n/7/Conv\t6\n' >plan.txt
run quantize digits.onnx -o plan.onnx --bits 4 --plan plan.txt
printf '/0/Conv 8\n/0/Cone 8\n' >bad_name.txt
printf '/0/Conv eight\n' >bad_bits.txt
printf '/0/Conv 8\n/0/Conv 4\n' >twice.txt
printf '# /0/Cone 4\n' >bad_comment.txt
for plan in bad_name bad_bits twice bad_comment missing; do run quantize digits.onnx -o no.onnx --plan $plan.txt; done
run quantize digits.onnx -o no.onnx --tensor 'nothing=4'
run quantize digits.onnx -o no.onnx --tensor '(=4'
run quantize digits.onnx -o no.onnx --tensor 'Conv=17'
run quantize digits.onnx -o no.onnx --bits 12 --compat
run quantize digits.onnx -o no.onnx --scheme round --affine
run quantize digits.onnx -o folder/no.onnx
[ ! -e no.onnx ] || fail "a file was written"
[ -z "$(find . -name '*.tmp')" ] || fail "a temporary file was left"

run quantize digits.onnx -o a8.onnx --activations 8 --calibrate digits:20:3 --preprocess unit
run quantize digits.onnx -o no.onnx --activations 8
run quantize digits.onnx -o no.onnx --activations 4 --calibrate digits:20
run quantize digits.onnx -o no.onnx --activations 16 --compat --calibrate digits:20
run quantize digits.onnx -o no.onnx --activations 8 --affine --calibrate digits:20
run quantize digits.onnx -o no.onnx --activations 16 --bits 12 --calibrate digits:20
run quantize digits.onnx -o no.onnx --activations 8 --calibrate missing_folder
[ ! -e no.onnx ] || fail "a file was written"
"$QBOUND" quantize digits.onnx -o a16.onnx --activations 16 --activation-range percentile --activation-percentile 99.9 \
  --calibrate digits:20:3 --preprocess unit --samples 10 --json >report.json
"$tool" check "$root/docs/schema/quantize.json" <report.json || fail "the schema does not hold"
"$QBOUND" quantize digits.onnx -o b16.onnx --activations 16 --activation-range percentile --activation-percentile 99.9 \
  --calibrate digits:20:3 --preprocess unit --samples 10 --threads 1 >/dev/null
cmp a16.onnx b16.onnx || fail "another number of threads, another file"

run quantize digits.onnx -o e4.onnx --bits 4 --granularity tensor --equalize range
run quantize digits.onnx -o e4d.onnx --bits 4 --granularity tensor --equalize l1 --bias-correction=free
"$QBOUND" certify digits.onnx e4.onnx -o e4.json --domain 0.01 --method layerwise --no-search >/dev/null || fail "no certificate of an equalized network"
"$QBOUND" check e4.json digits.onnx e4.onnx >/dev/null || fail "the certificate does not hold"
run quantize digits.onnx -o b8.onnx --bias-absorption
run quantize digits.onnx -o no.onnx --bias-correction
run quantize digits.onnx -o no.onnx --equalize maximum
"$QBOUND" quantize digits.onnx -o prepared.onnx --bits 4 --granularity tensor --scheme gptq --equalize range \
  --bias-absorption --bias-correction --activations 8 --calibrate digits:20:3 --preprocess unit --json >report.json
"$tool" check "$root/docs/schema/quantize.json" <report.json || fail "the schema does not hold"
run quantize digits.onnx -o json.onnx --bits 6 --json
"$QBOUND" quantize digits.onnx -o a.onnx --bits 6 --json >report.json
"$tool" check "$root/docs/schema/quantize.json" <report.json || fail "the schema does not hold"
cmp a.onnx json.onnx || fail "the same settings, other files"
"$QBOUND" quantize digits.onnx -o a.onnx --bits 6 --threads 1 >/dev/null
cmp a.onnx json.onnx || fail "another number of threads, another file"
for try in 1 2; do "$QBOUND" quantize digits.onnx -o s$try.onnx --bits 4 --scheme stochastic --seed 7 >/dev/null; done
cmp s1.onnx s2.onnx || fail "the same seed, other files"
"$QBOUND" quantize digits.onnx -o s3.onnx --bits 4 --scheme stochastic --seed 8 >/dev/null
! cmp -s s1.onnx s3.onnx || fail "another seed, the same file"
finish
