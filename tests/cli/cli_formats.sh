#!/bin/sh
# Files in the forms that other tools write: a certificate of each follows, holds what is measured, and a smaller claim is
# refuted. Where two graphs part is said.
. tests/cli/common
forms=$root/tests/golden/integer
for form in fixed_point half_up round_down reciprocal cast integer qlinear; do
  float=$forms/float.onnx
  [ $form != qlinear ] || float=$forms/qlinear_float.onnx
  "$QBOUND" certify "$float" "$forms/$form.onnx" --domain 1 --method layerwise,interval --no-search -o $form.json >/dev/null
  "$QBOUND" check $form.json "$float" "$forms/$form.onnx" >/dev/null || fail "the certificate of $form does not follow"
  "$QBOUND" measure "$float" "$forms/$form.onnx" --data "$forms/inputs.npy" --json >measured.json
  holds "0 < $(json other.error.max <measured.json) && $(json other.error.max <measured.json) <= $(json worst_case.bound <$form.json)" "$form"
  smaller=$(awk "BEGIN { printf \"%.9g\", $(json worst_case.bound <$form.json) * 0.99 }")
  sed -E "s/\"bound\":[^,]*/\"bound\":$smaller/" $form.json >planted.json
  status=0
  "$QBOUND" check planted.json "$float" "$forms/$form.onnx" >/dev/null 2>&1 || status=$?
  [ $status = 3 ] || fail "a smaller claim for $form: exit $status"
done

# A rounding that moves by a whole step has the larger bound; that of half a step is refuted for it.
holds "$(json worst_case.bound <round_down.json) > $(json worst_case.bound <fixed_point.json)" "rounding down"
sed -E "s/\"bound\":[^,]*/\"bound\":$(json worst_case.bound <fixed_point.json)/" round_down.json >planted.json
status=0
"$QBOUND" check planted.json "$forms/float.onnx" "$forms/round_down.onnx" >/dev/null 2>&1 || status=$?
[ $status = 3 ] || fail "half a step for rounding down: exit $status"

# Another tool's file of the demo network.
nncf=$root/tests/golden/quantized/nncf.onnx
"$QBOUND" certify "$root/examples/demo/digits.onnx" "$nncf" --preprocess unit --method layerwise --no-search -o nncf.json >/dev/null
"$QBOUND" check nncf.json "$root/examples/demo/digits.onnx" "$nncf" >/dev/null || fail "the certificate of the NNCF file"

# Where two graphs part.
cp "$forms/float.onnx" "$forms/qlinear_float.onnx" "$forms/fixed_point.onnx" .
run certify float.onnx qlinear_float.onnx --domain 1 -o no.json
run certify fixed_point.onnx float.onnx --domain 1 -o no.json
if "$QBOUND" quantize fixed_point.onnx -o again.onnx --bits 8 >/dev/null 2>&1; then fail "quantized once more"; fi
[ ! -e no.json ] && [ ! -e again.onnx ] || fail "something was written"
finish
