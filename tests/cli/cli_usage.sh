#!/bin/sh
# Help, and everything that is wrong usage: a message that says what to do, exit 2, nothing on stdout.
. tests/cli/common
run
run --help
run --version
run frobnicate
for command in demo inspect bound quantize measure certify report check reproduce train-mlp; do run $command --help; done
run inspect
run inspect a.onnx b.onnx
run inspect --frobnicate a.onnx
run bound a.onnx
run bound --preprocess unit
run bound a.onnx --domain 1 --bits 1
run bound a.onnx --domain 1 --bits 2-17
run bound a.onnx --domain 1 --bits 8,8
run bound a.onnx --domain 1 --bits 8-
run bound a.onnx --domain 1 --bits 9-4
run bound a.onnx --domain 1 --bits four
run bound a.onnx --domain x
run bound a.onnx --domain=-1
run bound a.onnx --domain 2,1
run bound a.onnx --domain 1,
run bound a.onnx --domain inf
run bound a.onnx --domain 1 --scheme uniform,best
run bound a.onnx --domain 1 --scheme uniform,uniform
run bound a.onnx --domain 1 --granularity row
run bound a.onnx --domain 1 --bias maybe
run report a.onnx b.onnx --data d
run report a.onnx b.onnx -o r.html
run report a.onnx
run quantize a.onnx
run quantize -o b.onnx
run quantize a.onnx -o b.onnx --bits 17
run quantize a.onnx -o b.onnx --bits 4.5
run quantize a.onnx -o b.onnx --scheme best
run quantize a.onnx -o b.onnx --grid best
run measure a.onnx
run measure --data x
run measure a.onnx b.onnx c.onnx --data x
run measure a.onnx --data x --samples 0
run measure a.onnx --data x --threads 0
run measure a.onnx --data x --seed -1
run demo a.onnx
finish
