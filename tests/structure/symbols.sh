#!/bin/sh
# The shared library exports the functions that the public header declares and nothing else, and calls nothing that
# prints, exits or changes the rounding mode.
set -eu
library=$QBOUND_BUILD/libqbound.so
header="include/qbound/qbound.h include/qbound/promise.h include/qbound/reproduce.h"
bad=0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

nm -D --defined-only "$library" | awk '$2 ~ /^[A-TV-Z]$/ { print $3 }' | grep -vE '^(_init|_fini|__asan|__odr|\.gomp_critical)' |
  sort >"$folder/exported"
grep -ohE 'qb_[a-z0-9_]+ *\(' $header | tr -d ' (' | sort -u >"$folder/declared"

extra=$(comm -23 "$folder/exported" "$folder/declared")
[ -z "$extra" ] || { echo "exported but not declared in $header:" $extra; bad=1; }
grep -q '^qb_version$' "$folder/exported" || { echo "qb_version is not exported: is anything?"; bad=1; }

used=$(nm -D --undefined-only "$library" | awk '{ sub(/@.*/, "", $NF); print $NF }' |
  grep -xE 'printf|__printf_chk|vprintf|puts|putchar|perror|exit|_exit|abort|stdout|fesetround' || true)
[ -z "$used" ] || { echo "the library uses:" $used; bad=1; }
exit $bad
