#!/bin/sh
# Reads every #include of src/, cli/ and include/ and fails on an arrow that the layering does not allow:
#   base <- tensor <- graph <- { onnx, data, run, bound } <- quant <- report <- api, qbound.c <- reproduce <- cli
# Modules in one brace never include each other; bound sees graph, tensor and base alone; the independent checker shares
# nothing with the engine but the readers; the command sees the public header alone. Each third-party library has its
# own corner. With no argument the checker is first shown planted mistakes, which it must notice.
set -eu

check() { # ROOT: prints the wrong arrows of the tree there, fails if there are any
  (cd "$1" && find src cli include -name '*.[ch]' 2>/dev/null | sort | xargs grep -n '^[[:space:]]*#[[:space:]]*include' /dev/null) | awk '
    BEGIN {
      allow["base"] = "base"
      allow["tensor"] = "tensor base"
      allow["graph"] = "graph tensor base"
      allow["onnx"] = "onnx graph tensor base"
      allow["data"] = "data graph tensor base"
      allow["run"] = "run graph tensor base"
      allow["bound"] = "bound graph tensor base"
      allow["stats"] = "stats base"
      allow["train"] = "train base"
      allow["search"] = "search run graph tensor base"
      allow["check"] = "check onnx graph tensor base"
      allow["quant"] = "quant onnx data run bound graph tensor base"
      allow["report"] = "report quant search stats onnx data run bound graph tensor base"
      allow["api"] = "api train report check search stats quant onnx data run bound graph tensor base"
      allow["reproduce"] = "reproduce " allow["api"]
      allow["top"] = allow["api"]
      allow["cli"] = "cli"
      # folders or files that may include a third-party header whose name matches
      corner["\\.pb-c\\.h$|^protobuf-c"] = "^src/onnx/"
      corner["dnnl"] = "^src/run/onednn[^/]*$"
      corner["^(arb|mag|arf|acb|flint|fmpz|fmpq)[^/]*\\.h$|^flint/"] = "^src/(bound|check|stats|run/exact)"
      corner["^(jpeglib|png|turbojpeg)"] = "^src/data/|^src/report/"
      corner["^openssl/"] = "^src/base/hash\\.c$"
      corner["^jansson"] = "^src/(report|check)/|^cli/"
      corner["^mpi\\.h$"] = "^src/base/mpi"
    }
    function wrong(what) { print file ":" line ": " what; bad = 1 }
    {
      split($0, part, ":")
      file = part[1]
      line = part[2]
      quoted = match($0, /"[^"]+"/) > 0
      if (!quoted && match($0, /<[^>]+>/) == 0) { wrong("an include that is neither quoted nor in brackets"); next }
      header = substr($0, RSTART + 1, RLENGTH - 2)
      module = file ~ /^include\// ? "public" : file ~ /^cli\// ? "cli" : file ~ /^src\/[^\/]*$/ ? "top" : ""
      if (module == "") { split(file, part, "/"); module = part[2] }
      if (module != "public" && !(module in allow)) { wrong("module " module " has no place in the layering"); next }

      for (pattern in corner)
        if (header ~ pattern && file !~ corner[pattern]) wrong("<" header "> belongs to " corner[pattern] " alone")
      split(header, part, "/")
      owner = part[1]
      if (header ~ /\.pb-c\.h$/) next
      if (!quoted) {
        if (owner in allow) wrong("write \"" header "\": brackets are for other libraries and <qbound/qbound.h>")
        if (module == "public" && owner == "qbound") next
        next
      }
      if (module == "public") wrong("the public header stands alone")
      else if (header !~ /\//) wrong("write \"" header "\" as \"module/file.h\"")
      else if (index(" " allow[module] " ", " " owner " ") == 0) wrong(module " must not see \"" header "\"")
    }
    END { exit bad }'
}

plant() { # FILE INCLUDE WANTED-STATUS
  rm -rf "$folder/tree"
  mkdir -p "$folder/tree/$(dirname "$1")"
  printf '#include %s\n' "$2" >"$folder/tree/$1"
  status=0
  check "$folder/tree" >"$folder/report" || status=$?
  [ "$status" -eq "$3" ] || { echo "the checker gives $status, not $3, for $1 including $2"; cat "$folder/report"; exit 1; }
}

if [ $# -eq 0 ]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  plant src/graph/a.c '"tensor/tensor.h"' 0
  plant src/quant/a.c '"run/run.h"' 0
  plant src/onnx/a.c '"onnx.pb-c.h"' 0
  plant src/qbound.c '"report/json.h"' 0
  plant cli/main.c '<qbound/qbound.h>' 0
  plant cli/main.c '"cli/options.h"' 0
  plant src/run/onednn_plan.c '<oneapi/dnnl/dnnl.h>' 0
  plant src/base/a.c '"graph/graph.h"' 1
  plant src/tensor/a.h '"graph/graph.h"' 1
  plant src/bound/a.c '"run/run.h"' 1
  plant src/bound/a.c '"onnx/onnx.h"' 1
  plant src/run/a.c '"bound/bound.h"' 1
  plant src/data/a.c '"onnx/onnx.h"' 1
  plant src/check/a.c '"bound/bound.h"' 1
  plant src/run/a.c '"quant/quant.h"' 1
  plant src/quant/a.c '"report/json.h"' 1
  plant src/report/a.c '"api/model.h"' 1
  plant src/reproduce/a.c '"api/model.h"' 0
  plant src/api/a.c '"reproduce/study.h"' 1
  plant src/new_module/a.c '"base/alloc.h"' 1
  plant cli/main.c '"graph/graph.h"' 1
  plant src/graph/a.c '<protobuf-c/protobuf-c.h>' 1
  plant src/graph/a.c '"onnx.pb-c.h"' 1
  plant src/run/reference.c '<oneapi/dnnl/dnnl.h>' 1
  plant src/run/a.c '<bound/bound.h>' 1
  plant src/bound/a.c '"magnitude.h"' 1
  plant include/qbound/qbound.h '"base/error.h"' 1
fi
check "${1:-.}"
