#!/bin/sh
# Files that are not networks: each a message that says what is wrong, exit 1, nothing on stdout.
. tests/cli/common
demo=$root/examples/demo/digits.onnx
size=$(wc -c <"$demo")

: >empty.onnx
mkdir folder.onnx
head -c $((size / 2)) "$demo" >half.onnx
head -c $((size - 1)) "$demo" >short.onnx
head -c 100 "$demo" >start.onnx
awk 'BEGIN { s = 12345; for (i = 0; i < 5000; i++) { s = (s * 16807) % 2147483647; printf "%c", 33 + s % 90 } }' >random.onnx
printf '\211PNG\r\n\032\n0000000000000000' >picture.onnx
printf '\037\213\010\000\000\000\000\000garbage' >bad.onnx.gz
gzip -n -c "$demo" | head -c 5000 >half.onnx.gz
printf '{"not": "a network"}' >text.onnx

for file in missing empty folder half short start random picture text; do run inspect $file.onnx; done
for file in bad half; do run inspect $file.onnx.gz; done
run bound half.onnx --domain 1
run quantize random.onnx -o out.onnx
[ ! -e out.onnx ] || fail "a file was written"
run measure empty.onnx --data digits
finish
