#!/bin/sh
# The README is true: a `console` block's commands are run and print exactly what stands below them (a line "..." stands
# for any lines); the C block is the one of examples/api.c; every linked file exists.
set -eu
root=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/bin" "$folder/here"
ln -s "$QBOUND" "$folder/bin/qbound"
cp -r examples "$folder/here/"
PATH=$folder/bin:$PATH
export LC_ALL=C.UTF-8
bad=0

awk '/^```console$/ { inside = 1; next } /^```$/ { inside = 0 } inside' README.md >"$folder/blocks"
commands=$(grep -c '^\$ ' "$folder/blocks") || { echo "README.md has no console block"; exit 1; }

# matches EXPECTED ACTUAL: line by line, "..." in the expected text skips lines
matches() {
  awk -v actual="$2" '
    BEGIN { while ((getline line < actual) > 0) have[++count] = line; at = 1 }
    $0 == "..." { skipping = 1; next }
    {
      if (skipping) while (at <= count && have[at] != $0) at++
      if (at > count || have[at] != $0) { print "expected: " $0; print "printed:  " (at <= count ? have[at] : "nothing more"); failed = 1; exit }
      at++
      skipping = 0
    }
    END { if (!failed && !skipping && at <= count) { print "not in the README: " have[at]; failed = 1 }; exit failed }' "$1"
}

for i in $(seq "$commands"); do
  awk -v wanted="$i" '/^\$ / { n++; next } n == wanted' "$folder/blocks" >"$folder/expected"
  command=$(sed -n 's/^\$ //p' "$folder/blocks" | sed -n "${i}p" | sed 's/^\.\/dev demo/qbound demo/')
  status=0
  (cd "$folder/here" && sh -c "$command") >"$folder/actual" || status=$?
  [ "$status" = 0 ] || { echo "$command: ends with $status"; bad=1; }
  matches "$folder/expected" "$folder/actual" || { echo "in: $command"; bad=1; }
done

awk '/^```c$/ { inside = 1; next } /^```$/ { inside = 0 } inside' README.md >"$folder/program"
[ -s "$folder/program" ] || { echo "README.md shows no C program"; bad=1; }
while IFS= read -r line; do
  sed 's/^  //' "$root/examples/api.c" | grep -qxF -- "$line" || { echo "not in examples/api.c: $line"; bad=1; }
done <"$folder/program"

for link in $(grep -oE '\]\([^)#]+' README.md CONTRIBUTING.md | sed 's/.*](//' | grep -v '^https*:'); do
  [ -e "$link" ] || { echo "linked but not there: $link"; bad=1; }
done
exit $bad
