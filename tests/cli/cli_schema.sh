#!/bin/sh
# Every command's --json holds to its schema in docs/schema, and docs/json.md names it. The schema checker notices planted
# mistakes: a missing key, an extra one, a wrong type, a value out of range.
. tests/cli/common
cp "$root/examples/demo/digits.onnx" .
print_json() { # COMMAND: one JSON object
  case $1 in
  demo) "$QBOUND" demo --json ;;
  inspect) "$QBOUND" inspect digits.onnx --json ;;
  bound) "$QBOUND" bound digits.onnx --bits 4 --preprocess unit --json ;;
  quantize) "$QBOUND" quantize digits.onnx -o w4.onnx --bits 4 --json ;;
  measure) "$QBOUND" measure digits.onnx w4.onnx --data digits:10 --preprocess unit --json ;;
  certify) "$QBOUND" certify digits.onnx w4.onnx --preprocess unit --method layerwise --no-search -o c.json --json ;;
  check) "$QBOUND" check c.json digits.onnx w4.onnx --json ;;
  report) "$QBOUND" report digits.onnx w4.onnx --data digits:10 --preprocess unit --sensitivity 0 -o r.html --json ;;
  train-mlp) "$QBOUND" train-mlp --layers 2 --width 8 --epochs 1 --data digits:60:1 -o mlp.onnx --json ;;
  reproduce)
    mkdir -p data/mnist
    for layers in 5 7 9 11; do
      "$QBOUND" train-mlp --layers $layers --width 8 --epochs 1 --data digits:60:1 -o data/mnist/mlp${layers}_mnist.onnx \
        >train.log || return 1
    done
    "$QBOUND" reproduce figure5 --data data -o figures --json
    ;;
  *) fail "say here how to make qbound $1 print JSON, in a second or two" ;;
  esac
}
schema_of() {
  case $1 in
  certify) echo certificate ;;
  train-mlp) echo train ;;
  *) echo "$1" ;;
  esac
}
commands=$("$QBOUND" --help | sed -n 's/^  \([a-z][a-z-]*\) .*/\1/p' | grep -v '^demo$') # quantize comes before its readers
names=
for command in $commands demo; do
  name=$(schema_of "$command")
  names="$names $name"
  print_json "$command" >"$command.json" || fail "qbound $command --json: exit $?"
  "$tool" check "$root/docs/schema/$name.json" <"$command.json" || fail "the schema does not hold for qbound $command"
  grep -q "qbound\.$name/" "$root/docs/json.md" || fail "docs/json.md does not describe qbound.$name"
  [ "$(json schema <"$command.json" | cut -d/ -f1)" = "qbound.$name" ] || fail "the schema that qbound $command names"
done
for file in "$root"/docs/schema/*.json; do
  case " $names " in *" $(basename "$file" .json) "*) ;; *) fail "no command prints $file" ;; esac
done

good='{"schema":"qbound.measure/1","model":"m","size_bytes":1,"images":1,"labelled":0,"top1":"not applicable","top5":0.5,"timing":{"seconds":1,"images_per_second":2}}'
schema=$root/docs/schema/measure.json
printf '%s' "$good" | "$tool" check "$schema" || fail "a good report is refused"
plant() {
  [ "$1" != "$good" ] || fail "nothing was planted"
  if printf '%s' "$1" | "$tool" check "$schema" 2>/dev/null; then fail "not noticed: $1"; fi
}
plant "$(printf '%s' "$good" | sed 's/"images":1,//')"
plant "$(printf '%s' "$good" | sed 's/"images":1/"images":1,"more":2/')"
plant "$(printf '%s' "$good" | sed 's/"images":1/"images":"1"/')"
plant "$(printf '%s' "$good" | sed 's/"images":1/"images":0/')"
plant "$(printf '%s' "$good" | sed 's/0\.5/1.5/')"
plant "$(printf '%s' "$good" | sed 's/measure.1/measure\/2/')"
plant "$(printf '%s' "$good" | sed 's/"seconds":1,//')"
plant "$(printf '%s' "$good" | sed 's/}}/}/')"
printf '{"pattern": "x"}' >odd.json
status=0
printf '1' | "$tool" check odd.json 2>/dev/null || status=$?
[ "$status" = 2 ] || fail "a schema with an unknown keyword is used"
