#!/bin/sh
# Installs into a new prefix and uses what is there as a stranger would: the command, the manual, and a program built
# with pkg-config.
set -eu
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
cmake --install "$QBOUND_BUILD" --prefix "$prefix" >/dev/null

missing() { echo "not installed: $1"; exit 1; }
library=$(find "$prefix" -name libqbound.so)
[ -n "$library" ] || missing libqbound.so
[ -f "$prefix/include/qbound/qbound.h" ] || missing qbound.h
[ -f "$prefix/share/man/man1/qbound.1" ] || missing qbound.1
[ "$(readelf -d "$library" | grep -c 'SONAME.*libqbound\.so\.[0-9]')" = 1 ] || missing "a versioned soname"

PKG_CONFIG_PATH=$(dirname "$library")/pkgconfig
export PKG_CONFIG_PATH
version=$(pkg-config --modversion qbound)
[ -x "$prefix/bin/qbound" ] || missing "the command"
"$prefix/bin/qbound" --version | grep -qF "$version" || { echo "the command has another version than $version"; exit 1; }

sanitize=
grep -q 'QBOUND_SANITIZE:BOOL=ON' "$QBOUND_BUILD/CMakeCache.txt" && sanitize=-fsanitize=address,undefined
compiler=$(sed -n 's/^CMAKE_C_COMPILER:[A-Z]*=//p' "$QBOUND_BUILD/CMakeCache.txt")
# shellcheck disable=SC2046
"$compiler" -std=c11 -Wall -Wextra -Wpedantic -Werror $sanitize examples/api.c $(pkg-config --cflags --libs qbound) \
  -Wl,-rpath,"$(dirname "$library")" -o "$prefix/api"
"$prefix/api" examples/demo/digits.onnx "$prefix/digits_w4.onnx" >"$prefix/said"
cat "$prefix/said"
grep -qE 'no output moves by more than [0-9]' "$prefix/said"
[ -s "$prefix/digits_w4.onnx" ]

status=0
"$prefix/api" "$prefix/missing.onnx" "$prefix/out.onnx" 2>"$prefix/said" || status=$?
[ "$status" = 1 ] && grep -q 'missing.onnx' "$prefix/said" || { echo "a missing file is not reported"; exit 1; }
