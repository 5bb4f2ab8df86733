#!/bin/sh
# qbound quantize --bits auto on the demo network: each promise kept and missed, plans saved and read back, damaged
# plans, samples that must be refused.
. tests/cli/common
filter() {
  sed -E 's/(put back, )[0-9.e-]+ of/\1ROUNDING of/; s/(mean square) [0-9.e+-]+/\1 NUMBER/; s/file takes [0-9]+/file takes SIZE/;
    s/("float_difference":)[0-9.e-]+/\1ROUNDING/;
    s/(error of the output is) [0-9.e+-]+, with nearest codes [0-9.e+-]+/\1 NUMBER, with nearest codes NUMBER/'
}
cp "$root/examples/demo/digits.onnx" digits.onnx
run quantize digits.onnx -o a3.onnx --bits auto --average-bits 3 --save-plan a3.plan
run quantize digits.onnx -o b3.onnx --bits 8 --plan a3.plan --json
"$QBOUND" measure a3.onnx b3.onnx --data digits:50 --preprocess unit --json | json other.error.max | grep -qx '0\(\.0\)\{0,1\}' ||
  fail "the saved plan gives another network"
cat a3.plan >>"$transcript"
run quantize digits.onnx -o size.onnx --bits auto --size 40000 --widths 2,4,8
[ "$(wc -c <size.onnx)" -le 40000 ] || fail "the file is too long"
run quantize digits.onnx -o small.onnx --bits auto --size 4000
[ -e small.onnx ] || fail "the best network was not written"
run quantize digits.onnx -o fixed.onnx --bits auto --average-bits 4 --tensor 'Gemm$=8' --tensor '^/0/=float'
run quantize digits.onnx -o proved.onnx --bits auto --certified-error 1000 --preprocess unit
run quantize digits.onnx -o proved.onnx --bits auto --certified-error 0.001 --domain 0,1

# promises about samples: kept, missed with status 3, refused
auto() { # PROMISE..: the exit status and whether a file was written
  rm -f s.onnx
  status=0
  "$QBOUND" quantize digits.onnx -o s.onnx --bits auto --grid mse --calibrate digits:16:5 --preprocess unit --json \
    --widths 2,4,8 "$@" >report.json 2>message || status=$?
}
auto --max-flip-rate 0.05 --verify digits:300:6
[ "$status" = 0 ] && [ -e s.onnx ] || fail "a flip rate of 5 % is not kept: $status"
"$tool" check "$root/docs/schema/quantize.json" <report.json || fail "the schema does not hold"
"$QBOUND" certify digits.onnx s.onnx -o s.json --statistical digits:100:6 --preprocess unit 2>message >/dev/null &&
  fail "samples that chose the plan are taken for held out"
grep -q 'were used to make s.onnx' message || fail "the samples that chose the plan are not refused: $(cat message)"
auto --max-flip-rate 0.0001 --verify digits:300:6
[ "$status" = 3 ] && [ -e s.onnx ] || fail "a promise that 300 samples cannot keep ends with $status"
json allocation.message <report.json | grep -q 'too few' || fail "it does not say that the samples are too few"
"$tool" check "$root/docs/schema/quantize.json" <report.json || fail "the schema does not hold"
auto --max-error 0.00001 --verify digits:100:6 --verify-skip 50 --verify-samples 20
[ "$status" = 3 ] && [ -e s.onnx ] || fail "an error of 1e-5 is promised: $status"
[ "$(json allocation.verified <report.json)" = 20 ] || fail "the verification samples are not 20"
auto --max-flip-rate 0.05 --verify digits:300:5
[ "$status" = 1 ] && [ ! -e s.onnx ] || fail "calibration samples verify: $status"
grep -q 'is calibration sample' message || fail "the overlap is not named"

# scores are of the equalized network: the plan is that of a file that is equalized already, and another without
"$QBOUND" quantize digits.onnx -o equal.onnx --tensor '.*=float' --equalize range --granularity tensor >/dev/null
plan() { # PLAN ARG..: the plan without its first line, which names the file
  target=$1
  shift
  "$QBOUND" quantize -o planned.onnx --bits auto --average-bits 3 --scheme gptq --calibrate digits:40:5 \
    --preprocess unit --granularity tensor --save-plan whole.plan "$@" >/dev/null || fail "no plan with $*"
  tail -n +2 whole.plan >"$target"
}
plan equalizing.plan digits.onnx --equalize range
plan equalized.plan equal.onnx
plan plain.plan digits.onnx
cmp equalizing.plan equalized.plan || fail "the plan is not that of the equalized network"
! cmp -s equalizing.plan plain.plan || fail "equalization does not matter to the plan"

# options that do not go together
run quantize digits.onnx -o no.onnx --bits auto
run quantize digits.onnx -o no.onnx --bits auto --average-bits 4 --size 1000
run quantize digits.onnx -o no.onnx --bits auto --average-bits 0
run quantize digits.onnx -o no.onnx --bits auto --average-bits 1.5
run quantize digits.onnx -o no.onnx --bits 4 --average-bits 4
run quantize digits.onnx -o no.onnx --bits 4 --widths 2,4
run quantize digits.onnx -o no.onnx --bits auto --max-flip-rate 0.02
run quantize digits.onnx -o no.onnx --bits auto --max-flip-rate 2 --verify digits:10
run quantize digits.onnx -o no.onnx --bits auto --certified-error 1
run quantize digits.onnx -o no.onnx --bits auto --average-bits 4 --widths 2-9
run quantize digits.onnx -o no.onnx --bits auto --average-bits 4 --confidence 1
run quantize digits.onnx -o no.onnx --bits auto --average-bits 4 --save-plan folder/plan
[ ! -e no.onnx ] || fail "a file was written"

# a plan with any byte damaged is read or refused, never worse
i=0
while [ $i -lt 40 ]; do
  length=$(wc -c <a3.plan)
  at=$(((i * 7919 + 13) % length))
  { head -c $at a3.plan; printf "\\$(printf %03o $(((i * 61 + 7) % 256)))"; tail -c +$((at + 2)) a3.plan; } >fuzz.plan
  status=0
  "$QBOUND" quantize digits.onnx -o fuzz.onnx --plan fuzz.plan >/dev/null 2>message || status=$?
  case $status in
  0) ;;
  1) grep -q 'fuzz.plan' message || fail "a damaged plan is refused without its name: $(cat message)" ;;
  *) fail "a damaged plan ends with $status" ;;
  esac
  i=$((i + 1))
done
finish
