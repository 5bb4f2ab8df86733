#!/bin/sh
# qbound reproduce on perceptrons trained here: tables and pictures, equal twice, what is missing is named, wrong usage.
. tests/cli/common
mkdir -p data/mnist
for layers in 5 7 9; do
  "$QBOUND" train-mlp --data digits:200:1 --layers $layers --width 32 --epochs 2 -o data/mnist/mlp${layers}_mnist.onnx \
    >/dev/null || fail "training fails"
done
reproduce() { "$QBOUND" reproduce "$@" </dev/null; }

status=0
reproduce figure5 -o first --data data >text 2>errors || status=$?
[ "$status" = 1 ] || fail "a missing network ends with $status"
grep -q 'data/mnist/mlp11_mnist.onnx is missing: train it: qbound train-mlp .* --layers 11' errors || { cat errors; fail "the missing network is not named"; }
"$QBOUND" train-mlp --data digits:200:1 --layers 11 --width 32 --epochs 2 -o data/mnist/mlp11_mnist.onnx >/dev/null

for folder in first second; do
  reproduce figure5 -o $folder --data data --json --threads 2 >$folder.json || fail "figure5 fails"
done
QBOUND_DATA=data reproduce figure5 -o third --threads 1 >text || fail "QBOUND_DATA is not used"
grep -q 'paper:    the ratio of the bounds against depth' text || fail "what the paper reports is not said"
grep -q 'measured: 1e.* for 5 layers, .* for 11 layers' text || fail "what was measured is not said"
"$tool" check "$root/docs/schema/reproduce.json" <first.json || fail "the schema does not hold"
for ending in csv svg png; do
  cmp first/figure5.$ending second/figure5.$ending || fail "figure5.$ending differs the second time"
  cmp first/figure5.$ending third/figure5.$ending || fail "figure5.$ending differs with one thread"
done
[ "$(wc -l <first/figure5.csv)" = 61 ] || fail "not 4 depths of 15 widths"
awk -F, 'NR > 1 && !($4 > $5 && $6 > 0 && $4 - $5 - $6 < 1e-5 && $6 + $5 - $4 < 1e-5) { exit 1 }' first/figure5.csv ||
  fail "the prior bound is not above the new one"
awk -F, 'NR > 1 && $2 == 8 { if ($6 <= last) exit 1; last = $6 }' first/figure5.csv || fail "the ratio does not grow"
grep -q '</svg>' first/figure5.svg || fail "the picture is cut off"
grep -q '>layers</text>' first/figure5.svg || fail "the axis has no title"

# Stopped while it works: no file is left half written. (It may have finished before the signal came.)
"$QBOUND" reproduce figure5 -o stopped --data data </dev/null >text 2>errors &
worker=$!
while [ ! -e stopped/figure5.csv.$worker.tmp ] && [ ! -e stopped/figure5.csv ] && kill -0 $worker; do :; done
kill -TERM $worker || :
status=0
wait $worker || status=$?
[ "$status" = 0 ] || { [ "$status" = 1 ] && grep -q 'reproducing was stopped' errors; } || fail "stopped, it ends with $status"
[ "$status" = 0 ] || [ "$(ls stopped)" = "" ] || fail "a stopped figure leaves $(ls stopped)"

# Only perceptrons are here: the others are named, and theirs are the bounds.
status=0
reproduce equalization -o first --data data >text 2>errors || status=$?
[ "$status" = 1 ] || fail "equalization ends with $status"
[ "$(wc -l <first/equalization.csv)" = 25 ] || fail "not 4 networks of 3 kinds and 2 widths"
grep -q 'torch.onnx.export' errors || fail "how to get a network is not said"

run reproduce
run reproduce figure6 -o out --data data
run reproduce figure5 --data data
run reproduce figure5 -o out --data missing
run reproduce figure5 -o data/mnist/mlp5_mnist.onnx --data data
run reproduce figure5 figure1 -o out --data data
run reproduce figure5 -o out --data data --samples 0
finish
