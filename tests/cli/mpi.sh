#!/bin/sh
# The command under mpirun: 1, 2 and 4 ranks give the bytes of one process, a rank that fails ends all with one message,
# a measurement that was stopped goes on where it was. Needs Open MPI and the build of the preset mpi.
. tests/cli/common
plain=$QBOUND
QBOUND=$root/build/mpi/qbound
command -v mpirun >/dev/null && [ -x "$QBOUND" ] || { echo "no mpirun, or no $QBOUND (./dev test builds it)"; exit 77; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl=self,vader
ranks() { # COUNT ARG..: qbound ARG.. on COUNT ranks
  count=$1
  shift
  mpirun -q --oversubscribe -n "$count" "$QBOUND" "$@" </dev/null
}
without_timing() { sed -E 's/"timing":\{[^}]*\}//g'; }

cp "$root/examples/demo/digits.onnx" digits.onnx
"$plain" quantize digits.onnx -o w4.onnx --bits 4 >/dev/null
measure="measure digits.onnx w4.onnx --data digits:300:3 --preprocess unit --json"
"$plain" $measure | without_timing >one.json
for count in 1 2 4; do
  ranks $count $measure >raw.json || fail "$count ranks fail"
  without_timing <raw.json >many.json
  cmp one.json many.json || fail "$count ranks, another report"
  "$tool" check "$root/docs/schema/measure.json" <raw.json || fail "the schema does not hold"
done
ranks 2 inspect digits.onnx >many.txt && "$plain" inspect digits.onnx >one.txt
cmp one.txt many.txt || fail "two ranks print twice"

# sample 100, which is the second rank's, is no number
{
  printf '\223NUMPY\001\000\166\000%-117s\n' "{'descr': '<f4', 'fortran_order': False, 'shape': (192, 1, 28, 28), }"
  head -c $((100 * 784 * 4)) /dev/zero
  printf '\000\000\300\177'
  head -c $((92 * 784 * 4 - 4)) /dev/zero
} >bad.npy
for count in 2 4; do
  status=0
  ranks $count measure digits.onnx --data bad.npy >out.txt 2>err.txt || status=$?
  [ "$status" = 1 ] || fail "$count ranks end with $status when one fails"
  [ "$(grep -c '^qbound: ' err.txt)" = 1 ] || fail "not one message: $(cat err.txt)"
  grep -q 'qbound: .*100' err.txt || fail "the message does not name the sample: $(cat err.txt)"
done

# a checkpoint of other ranks is used, one of other samples is not, half a file is made again
ranks 2 $measure --checkpoint parts >/dev/null
[ "$(ls parts | wc -l)" = 5 ] || fail "$(ls parts | wc -l) shards instead of 5"
first=$(ls parts | head -n 1)
before=$(cat "parts/$first")
printf '0 0 0 0 0 0x1p+9\n' >"parts/$first"
"$plain" $measure --checkpoint parts | without_timing >again.json
cmp one.json again.json || fail "a checkpoint changes the report"
[ "$before" = "$(cat "parts/$first")" ] || fail "a damaged shard was not made again"
sed 's/^\([0-9 -]*\) 0x.*p[-+0-9]*$/\1 0x1p+20/' "parts/$first" >planted && cp planted "parts/$first"
"$plain" $measure --checkpoint parts | without_timing >planted.json
! cmp -s one.json planted.json || fail "finished shards are not used"
"$plain" $measure --seed 1 --samples 64 --skip 5 --checkpoint parts >/dev/null
[ "$(ls parts | wc -l)" = 6 ] || fail "a shard of other samples was taken for this one"

status=0
OMPI_COMM_WORLD_SIZE=2 "$plain" $measure >out.txt 2>err.txt || status=$?
[ "$status" = 1 ] && grep -q 'built without MPI' err.txt || fail "several processes without MPI are not refused"

# quantizing: ranks share the rows of a layer, the file is that of one process
quantize="quantize digits.onnx --bits 3 --calibrate digits:40:5 --preprocess unit --bias-correction"
for how in "--scheme adaround" "--scheme gptq --grid output" "--scheme uniform --grid output --granularity tensor"; do
  "$plain" $quantize $how -o one.onnx >/dev/null
  for count in 2 3; do
    ranks $count $quantize $how -o many.onnx >/dev/null || fail "$count ranks fail with $how"
    cmp one.onnx many.onnx || fail "$count ranks, another file with $how"
  done
done
for how in "" "--equalize range"; do # and with bits chosen layer by layer
  auto="quantize digits.onnx --bits auto --average-bits 3 --scheme gptq --calibrate digits:40:5 --preprocess unit $how"
  "$plain" $auto -o one.onnx >/dev/null
  ranks 2 $auto -o many.onnx >/dev/null || fail "two ranks fail with --bits auto $how"
  cmp one.onnx many.onnx || fail "two ranks, another file with --bits auto $how"
done
ranks 2 certify digits.onnx w4.onnx -o many.json --preprocess unit --statistical digits:150:9 >/dev/null || [ $? = 3 ] || fail "certify fails"
"$plain" certify digits.onnx w4.onnx -o one.json --preprocess unit --statistical digits:150:9 >/dev/null || [ $? = 3 ] || fail "certify fails"
without_timing <many.json >many.txt
without_timing <one.json | cmp - many.txt || fail "two ranks, another certificate"

# balls of two radii around five inputs
"$plain" train-mlp --layers 3 --width 16 --epochs 2 --data digits:300:1 -o mlp.onnx >/dev/null
"$plain" quantize mlp.onnx -o mlp4.onnx --bits 4 >/dev/null
balls="certify mlp.onnx mlp4.onnx --around digits:5:9 --radius 0,0.5px --preprocess unit"
"$plain" $balls -o one.json >/dev/null || [ $? = 3 ] || fail "certify --around fails"
ranks 2 $balls -o many.json >/dev/null || [ $? = 3 ] || fail "two ranks fail with balls"
"$tool" drop timing <one.json >one.txt
"$tool" drop timing <many.json | cmp - one.txt || fail "two ranks, other balls"
