#!/bin/sh
# The list of planted mistakes in docs/soundness.md against the sources: every switch of the library is listed once,
# with a test function that exists in a file that plants it.
set -eu
list=docs/soundness.md
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
bad=0
wrong() { echo "$1"; bad=1; }

planted=$(grep -rhoE '^  QB_([A-Z]+_)?FAULT_[A-Z0-9_]+' src --include='*.h' | grep -vE '_(NONE|COUNT|FIRST_[A-Z0-9]+)$' | sort -u)
[ "$(echo "$planted" | wc -l)" -ge 15 ] || wrong "fewer than 15 planted mistakes were found in src"
for fault in $planted; do
  rows=$(grep -c "^| \`$fault\` |" $list || true)
  [ "$rows" = 1 ] || wrong "$fault has $rows rows in $list: add one that names the test that notices it"
done

rows=$(sed -n 's/^| \(`QB_[A-Z0-9_]*`\|[^|`]*\) |.*`\([a-z_0-9]*\): \([a-z_0-9]*\)` |$/\1 \2 \3/p' $list | tr -d '`')
[ "$(echo "$rows" | wc -l)" -ge 40 ] || wrong "fewer than 40 rows were read from $list"
echo "$rows" | sed 's/.* \([a-z_0-9]*\) \([a-z_0-9]*\)$/\1 \2/' | sort -u >"$temp/rows"
while read -r file function; do
  source=$(find tests -name "$file.c")
  [ -n "$source" ] || { wrong "$list names the test $file, which is not there"; continue; }
  grep -q "^static void $function(void \*\*state)" "$source" || wrong "$list: $source has no test $function"
  grep -q "cmocka_unit_test($function)" "$source" || wrong "$list: $source does not run $function"
done <"$temp/rows"

# Named in the test, or within a loop over all of its kind.
echo "$rows" | grep '^QB_' | while read -r fault file function; do
  source=$(find tests -name "$file.c")
  grep -qE "$fault|fault < QB_[A-Z_]*FAULT_(COUNT|FIRST_L2)" "$source" || echo "$source does not plant $fault"
  grep -qhE "^  $fault\b" src/*/*.h || echo "$list lists $fault, which is not in the sources"
done >"$temp/plants"
[ ! -s "$temp/plants" ] || wrong "$(cat "$temp/plants")"
exit $bad
