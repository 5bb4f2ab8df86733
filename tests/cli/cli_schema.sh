#!/bin/sh
# The schema checker notices planted mistakes: a missing key, an extra one, a wrong type, a value out of range.
. tests/cli/common
good='{"schema":"qbound.measure/1","model":"m","size_bytes":1,"images":1,"labelled":0,"top1":"not applicable","top5":0.5,"timing":{"seconds":1,"images_per_second":2}}'
schema=$root/docs/schema/measure.json
printf '%s' "$good" | "$tool" check "$schema" || fail "a good report is refused"
plant() {
  [ "$1" != "$good" ] || fail "nothing was planted"
  if printf '%s' "$1" | "$tool" check "$schema" 2>/dev/null; then fail "not noticed: $1"; fi
}
plant "$(printf '%s' "$good" | sed 's/"images":1,//')"
plant "$(printf '%s' "$good" | sed 's/"images":1/"images":1,"more":2/')"
plant "$(printf '%s' "$good" | sed 's/"images":1/"images":"1"/')"
plant "$(printf '%s' "$good" | sed 's/"images":1/"images":0/')"
plant "$(printf '%s' "$good" | sed 's/0\.5/1.5/')"
plant "$(printf '%s' "$good" | sed 's/measure.1/measure\/2/')"
plant "$(printf '%s' "$good" | sed 's/"seconds":1,//')"
plant "$(printf '%s' "$good" | sed 's/}}/}/')"
printf '{"pattern": "x"}' >odd.json
status=0
printf '1' | "$tool" check odd.json 2>/dev/null || status=$?
[ "$status" = 2 ] || fail "a schema with an unknown keyword is used"
