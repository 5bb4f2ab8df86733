#!/bin/sh
# The counts that ./dev test prints: every way in which a test can end is told apart.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# case NAME STATUS: one test program; its extra elements and output come from standard input
case_of() {
  printf '\t<testcase name="%s" classname="%s" time="0.1" status="%s">\n' "$1" "$1" "$2"
  cat
  printf '\t</testcase>\n'
}

{
  printf '<?xml version="1.0" encoding="UTF-8"?>\n<testsuite name="(empty)"\n\ttests="8"\n\t>\n'
  case_of test_skips run <<'T'
		<system-out>[==========] Running 2 test(s).
[ RUN      ] good
[       OK ] good
[ RUN      ] needs_data
no file &lt;model.onnx&gt;
[  SKIPPED ] needs_data
[==========] 2 test(s) run.
[  PASSED  ] 1 test(s).
[  SKIPPED ] 1 test(s), listed below:
[  SKIPPED ] needs_data

 1 SKIPPED TEST(S)
</system-out>
T
  case_of test_fails fail <<'T'
		<failure message=""/>
		<system-out>[==========] Running 2 test(s).
[ RUN      ] good
[       OK ] good
[ RUN      ] bad
[  ERROR   ] --- 0x1 != 0x2
[  FAILED  ] bad
[==========] 2 test(s) run.
[  FAILED  ] 1 test(s), listed below:
[  FAILED  ] bad
</system-out>
T
  case_of test_crashes fail <<'T'
		<failure message=""/>
		<system-out>[==========] Running 2 test(s).
[ RUN      ] crash
</system-out>
T
  case_of test_leaks fail <<'T'
		<failure message=""/>
		<system-out>[ RUN      ] good
[       OK ] good
LeakSanitizer: detected memory leaks
</system-out>
T
  printf '\t\t<system-out></system-out>\n' | case_of script_good run
  printf '\t\t<failure message=""/>\n\t\t<system-out></system-out>\n' | case_of script_fails fail
  case_of script_skips notrun <<'T'
		<skipped message="SKIP_RETURN_CODE=77"/>
		<system-out>no such tool
</system-out>
T
  case_of missing notrun <<'T'
		<skipped message="Unable to find executable"/>
		<system-out>Unable to find executable: ./missing</system-out>
T
  printf '</testsuite>\n'
} >"$folder/tests.xml"

cat >"$folder/expected" <<'T'

Skipped:
  test_skips: needs_data - no file <model.onnx>
  script_skips - no such tool

Failed:
  test_fails: bad
  test_crashes: crash
  test_leaks
  script_fails
  missing

4 passed, 5 failed, 2 skipped
T
status=0
awk -f tests/summary.awk "$folder/tests.xml" >"$folder/actual" || status=$?
diff -u "$folder/expected" "$folder/actual"
[ "$status" -ne 0 ] || { echo "failures must give a bad exit status"; exit 1; }

status=0
printf '<testsuite>\n</testsuite>\n' | awk -f tests/summary.awk >/dev/null || status=$?
[ "$status" -ne 0 ] || { echo "a run without tests must not count as success"; exit 1; }
