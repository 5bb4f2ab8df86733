#!/bin/sh
# What the compiler does not check about the sources: size of files, unique names, an opening comment, no output or
# exit from the library, the heap through one door, no change of the rounding mode.
set -eu
bad=0
wrong() { echo "$1"; bad=1; }

sources=$(find src cli include tests examples -name '*.[ch]' 2>/dev/null | sort)
for file in $sources; do
  lines=$(wc -l <"$file")
  most=800
  [ "$file" != include/qbound/qbound.h ] || most=1200 # the public interface is one header
  [ "$lines" -le $most ] || wrong "$file: $lines lines; split it ($most at most)"
  case $(head -c 2 "$file") in
  '/*') ;;
  *) wrong "$file: opens without a comment that says what it is for" ;;
  esac
done

twice=$(for file in $sources; do basename "$file"; done | sort | uniq -d)
[ -z "$twice" ] || wrong "file names used twice: $twice"

# Code without comments and string contents, as "file:line:code".
code() {
  awk '
    FNR == 1 { inside = 0 }
    {
      text = $0
      gsub(/\\["\\]/, "", text)
      gsub(/"[^"]*"/, "\"\"", text)
      out = ""
      while (text != "") {
        if (inside) {
          end = index(text, "*/")
          if (end == 0) break
          text = substr(text, end + 2)
          inside = 0
        } else {
          start = index(text, "/*")
          if (start == 0) { out = out text; break }
          out = out substr(text, 1, start - 1)
          text = substr(text, start + 2)
          inside = 1
        }
      }
      if (out != "") print FILENAME ":" FNR ":" out
    }' "$@"
}

forbid() { # WHY PATTERN FILE..
  why=$1 pattern=$2
  shift 2
  found=$(code "$@" | grep -E "$pattern" || true)
  [ -z "$found" ] || wrong "$why:
$found"
}

word='(^|[^A-Za-z0-9_])'
library=$(find src -name '*.[ch]')
forbid "the library never prints" "$word((printf|vprintf|puts|putchar|perror) *\\(|(stdout|stderr)[^A-Za-z0-9_])" $library
forbid "the library never exits" "$word(exit|_exit|abort|quick_exit) *\\(" $library
forbid "the heap is reached through base/alloc.h" "$word(malloc|calloc|realloc|aligned_alloc|strdup|free) *\\(" \
  $(find src -name '*.[ch]' ! -name alloc.c)
forbid "the rounding mode is never changed" "${word}fesetround" \
  $(for file in $sources; do echo "$file"; done | grep -v '^tests/unit/bound/test_environment\.c$')
forbid "comments are /* */" '(^|[^:])//' $sources
forbid "no goto" "${word}goto " $sources

# The checker must notice what it is there for.
planted=$(mktemp)
trap 'rm -f "$planted"' EXIT
printf '/* printf("a comment"); */\n  char *s = "exit(1)";\n  int n = x; /* and\n more */ exit(1);\n' >"$planted"
[ "$(code "$planted" | grep -cE "${word}exit *\\(")" = 1 ] || wrong "the checker misses a planted exit"
[ "$(code "$planted" | grep -cE "${word}printf")" = 0 ] || wrong "the checker sees code in a comment"
exit $bad
