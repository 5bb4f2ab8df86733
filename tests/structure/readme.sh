#!/bin/sh
# README and tour are true: a `console` block's commands are run and print exactly what stands below them (a line "..."
# stands for any lines, ".." at the end of a line for the rest of it); the C block is the one of examples/api.c; every
# linked file exists.
set -eu
root=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/bin"
ln -s "$QBOUND" "$folder/bin/qbound"
PATH=$folder/bin:$PATH
export LC_ALL=C.UTF-8
bad=0

# matches EXPECTED ACTUAL: line by line, "..." in the expected text skips lines
matches() {
  awk -v actual="$2" '
    BEGIN { while ((getline line < actual) > 0) have[++count] = line; at = 1 }
    function same(line, wanted) {
      if (wanted !~ /\.\.$/) return line == wanted
      return index(line, substr(wanted, 1, length(wanted) - 2)) == 1
    }
    $0 == "..." { skipping = 1; next }
    {
      if (skipping) while (at <= count && !same(have[at], $0)) at++
      if (at > count || !same(have[at], $0)) { print "expected: " $0; print "printed:  " (at <= count ? have[at] : "nothing more"); failed = 1; exit }
      at++
      skipping = 0
    }
    END { if (!failed && !skipping && at <= count) { print "not in the text: " have[at]; failed = 1 }; exit failed }' "$1"
}

# console FILE: its commands, one after the other in a folder of their own
console() {
  here=$folder/$(basename "$1" .md)
  mkdir "$here"
  cp -r examples "$here/"
  awk '/^```console$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$1" >"$folder/blocks"
  commands=$(grep -c '^\$ ' "$folder/blocks") || { echo "$1 has no console block"; exit 1; }
  for i in $(seq "$commands"); do
    awk -v wanted="$i" '/^\$ / { n++; next } n == wanted' "$folder/blocks" >"$folder/expected"
    command=$(sed -n 's/^\$ //p' "$folder/blocks" | sed -n "${i}p" | sed 's/^\.\/dev demo/qbound demo/')
    status=0
    (cd "$here" && sh -c "$command") >"$folder/actual" || status=$?
    [ "$status" = 0 ] || { echo "$1: $command: ends with $status"; bad=1; }
    matches "$folder/expected" "$folder/actual" || { echo "$1, in: $command"; bad=1; }
  done
}
console README.md
console docs/tour.md

awk '/^```c$/ { inside = 1; next } /^```$/ { inside = 0 } inside' README.md >"$folder/program"
[ -s "$folder/program" ] || { echo "README.md shows no C program"; bad=1; }
while IFS= read -r line; do
  sed 's/^  //' "$root/examples/api.c" | grep -qxF -- "$line" || { echo "not in examples/api.c: $line"; bad=1; }
done <"$folder/program"

for page in README.md CONTRIBUTING.md docs/*.md; do
  for link in $(grep -oE '\]\([^)#]+' "$page" | sed 's/.*](//' | grep -v '^https*:'); do
    [ -e "$(dirname "$page")/$link" ] || { echo "$page: linked but not there: $link"; bad=1; }
  done
done

# The tour names every command, and every option in its text exists.
tour=$(cat docs/tour.md docs/faq.md)
for command in inspect bound quantize measure certify check report; do
  echo "$tour" | grep -q "^\$ qbound $command " || { echo "the tour does not run qbound $command"; bad=1; }
done
for option in $(echo "$tour" | grep -oE -- '`[^`]*`' | grep -oE -- '--[a-z][a-z-]+' | sort -u); do
  grep -qE -- "Fl -${option#--}( |\$|,)" docs/qbound.1 || { echo "tour or faq: no option $option"; bad=1; }
done
exit $bad
