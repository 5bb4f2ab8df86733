#!/bin/sh
# Accuracy of quantized networks: accuracy.sh BUILD_DIR [NETWORK [ROW..]].. writes bench/results/accuracy.csv. Networks
# and images come from the folder QBOUND_DATA (default ../shared/data); without it nothing is done. With names, only those
# networks are measured again and the other rows stay; with rows behind a name, only those. A row is
# none:adaround:4:channel:output[:correct[:SAMPLES]]. Weight rounding is calibrated on training images (`samples`) and
# measured on validation images that it never saw. cpu_s is the CPU time of quantizing, wall_s its wall time on whatever
# else the machine did; accuracy.txt tells the machine and its load at the end. Small test sets: 95 % intervals (Clopper
# and Pearson) and paired wins and losses against the float network stand beside every number. The ResNet-18 weights were
# decoded from a product-quantized release.
set -eu
build=$1
shift
data=${QBOUND_DATA:-../shared/data}
out=bench/results
[ -d "$data" ] || { echo "accuracy: skipped, there is no $data"; exit 0; }
[ -n "${NO_BUILD:-}" ] || cmake --build "$build" --target bench_accuracy
mkdir -p "$out"
export OMP_WAIT_POLICY=passive
header=network,equalize,scheme,bits,granularity,grid,bias,samples,images,float_top1,top1,low95,high95,flips,wins,losses,mean_error
header=$header,relative_error_nearest,relative_error,kept_nearest,wall_s,cpu_s
table=$out/accuracy.csv
[ -f "$table" ] || echo "$header" >"$table"

cifar() { # NAME ROW..: 512 of 2,000 training images
  name=$1
  shift
  "$build/bench/bench_accuracy" "$name" "$data/cifar10/${name}_cifar10_bn.onnx" "$data/cifar10/train_2000.bin" 512 \
    "$data/cifar10/test_1000.bin" imagenet-norm "$@"
}

imagenet() { # NAME FILE ROW..: SAMPLES (default 256) training images, flips and shifts of them beyond 400
  name=$1 file=$2
  shift 2
  "$build/bench/bench_accuracy" "$name" "$data/imagenet/$file" "$data/imagenet/calibration" "${SAMPLES:-256}" \
    "$data/imagenet/validation" imagenet-224 "$@"
}

# every BITS..: the methods that a table compares
every() {
  for bits; do
    echo "none:nearest:$bits:tensor:minmax none:nearest:$bits:channel:minmax none:gptq:$bits:tensor:output:correct" \
      "none:gptq:$bits:channel:output:correct none:adaround:$bits:tensor:output:correct" \
      "none:adaround:$bits:channel:output:correct none:adaround:$bits:channel-affine:output:correct"
  done
}

rows() { # NETWORK
  case $1 in
  mobilenetv2) echo range:nearest:8:tensor:minmax range:nearest:8:tensor:minmax:correct range:nearest:4:channel:minmax ;;
  resnet18)
    echo range:nearest:8:tensor:minmax range:nearest:4:channel:minmax \
      none:adaround:4:channel-affine:output:correct:1024 none:adaround:3:channel-affine:output:correct:1024
    ;;
  *) echo range:nearest:8:tensor:minmax range:nearest:4:channel:minmax ;;
  esac
  echo none:nearest:8:tensor:minmax none:nearest:8:channel:minmax none:gptq:8:channel:output:correct \
    none:adaround:8:channel:output:correct
  every 4 3 2
}

measure() { # NETWORK ROW..
  network=$1
  shift
  case $network in
  resnet20 | resnet56) cifar "$network" "$@" ;;
  mobilenetv2) imagenet "$network" mobilenetv2_imagenet_folded.onnx "$@" ;;
  resnet18) imagenet "$network" resnet18_pqf_imagenet_bn.onnx.gz "$@" ;;
  *) echo "accuracy: no network '$network'" >&2; return 2 ;;
  esac
}

# Replaces the lines of `table` that $table.part has too, the first eight fields (samples: of calibration); new ones go
# behind the network's others.
merge() {
  awk -F , 'function key() { return $1 "," $2 "," $3 "," $4 "," $5 "," $6 "," $7 "," $8 }
    FNR == 1 { file++ }
    file == 1 { new[key()] = $0; order[++count] = key(); network = $1; next }
    network == last && $1 != network { rest() }
    { last = $1; if (key() in new) { if (!(key() in done)) print new[key()]; done[key()] = 1 } else print }
    function rest(  i) { for (i = 1; i <= count; i++) if (!(order[i] in done)) { print new[order[i]]; done[order[i]] = 1 } }
    END { rest() }' "$table.part" "$table" >"$table.new"
  mv "$table.new" "$table"
  { grep -v "^$1:" "$out/accuracy.txt" 2>/dev/null || true
    echo "$1: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) threads, load $(cut -d ' ' -f 1 /proc/loadavg)"
  } >"$table.new"
  mv "$table.new" "$out/accuracy.txt"
  rm -f "$table.part"
}

[ $# -gt 0 ] || set -- resnet20 resnet56 mobilenetv2 resnet18
while [ $# -gt 0 ]; do
  network=$1 wanted=
  shift
  while [ $# -gt 0 ] && [ "$1" != "${1#*:}" ]; do
    wanted="$wanted $1"
    shift
  done
  # shellcheck disable=SC2046,SC2086
  measure "$network" ${wanted:-$(rows "$network")} | while read -r line; do # each is kept once it is there
    echo "$line" >"$table.part"
    merge "$network"
    echo "$line"
  done
done
