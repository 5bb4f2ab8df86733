#!/bin/sh
# Every command explains itself with an example, its options are in the manual, and exit statuses mean what they say.
set -eu
bad=0
wrong() { echo "$1"; bad=1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# expect STATUS COMMAND..: runs it with its output in $folder
expect() {
  wanted=$1
  shift
  status=0
  "$@" >"$folder/out" 2>"$folder/err" </dev/null || status=$?
  [ "$status" = "$wanted" ] || wrong "$* ends with $status, not $wanted: $(cat "$folder/err")"
}

expect 0 "$QBOUND" --help
commands=$(sed -n 's/^  \([a-z][a-z-]*\) .*/\1/p' "$folder/out")
[ "$(echo "$commands" | wc -l)" -ge 5 ] || wrong "the list of commands is too short: $commands"
expect 0 "$QBOUND" --version
expect 2 "$QBOUND"
expect 2 "$QBOUND" no-such-command
grep -q no-such-command "$folder/err" || wrong "the unknown command is not named"

for command in $commands; do
  expect 0 "$QBOUND" "$command" --help
  grep -qE "^ +qbound $command" "$folder/out" || wrong "qbound $command --help shows no example"
  [ ! -s "$folder/err" ] || wrong "qbound $command --help writes to standard error"
  grep -q -- "^\.Ss $command\$" docs/qbound.1 || wrong "docs/qbound.1 has no section on $command"
  for option in $(grep -oE -- '^ +(-[a-z], )?(    )?--[a-z0-9-]+' "$folder/out" | grep -oE -- '--[a-z0-9-]+' | sort -u); do
    case $option in --help | --usage | --version) continue ;; esac
    grep -qE -- "Fl -${option#--}( |\$|,)" docs/qbound.1 || wrong "docs/qbound.1 does not have $option of $command"
  done
  expect 2 "$QBOUND" "$command" --no-such-option
done

expect 1 "$QBOUND" inspect "$folder/missing.onnx"
grep -q "$folder/missing.onnx" "$folder/err" || wrong "the missing file is not named"
[ ! -s "$folder/out" ] || wrong "a failure writes to standard output"
for command in inspect bound quantize measure; do expect 2 "$QBOUND" "$command"; done
: >"$folder/empty.onnx"
expect 1 "$QBOUND" inspect "$folder/empty.onnx"
expect 1 "$QBOUND" inspect "$folder"
if [ -w /dev/full ]; then
  status=0
  "$QBOUND" --help >/dev/full 2>/dev/null || status=$?
  [ "$status" = 1 ] || wrong "a full disk under standard output ends with $status, not 1"
fi
exit $bad
