# Reads the JUnit file of a CTest run and counts every test: each cmocka function and each script. Names what failed
# and what was skipped, with the line that the test printed last as the reason. The last line is
# "N passed, N failed, N skipped"; the exit status is 0 only when something ran and nothing failed.
#
# A cmocka program that skips a function still succeeds for CTest, so the functions are read from its output. A
# function that started and never ended (a crash, a time limit) has failed, and so has a program that ends badly
# although its functions succeeded (a leak found at exit).

function note_skip(name, why) {
  skipped++
  skips = skips "  " name (why == "" ? "" : " - " why) "\n"
}

function note_failure(name) {
  failed++
  failures = failures "  " name "\n"
}

function finish(    i, failed_before) {
  failed_before = failed
  for (i = 1; i <= functions; i++) {
    if (state[order[i]] == "ok") passed++
    else if (state[order[i]] == "skipped") note_skip(test ": " order[i], reason[order[i]])
    else note_failure(test ": " order[i])
  }
  if (status == "run") passed += functions == 0
  else if (asked_to_skip) note_skip(test, last)
  else if (failed == failed_before) note_failure(test)
}

# The lists at the end of a program's output repeat names: only the first verdict after a start counts.
function end_function(verdict) {
  if (current == "") return
  state[current] = verdict
  reason[current] = unescape(last)
  current = ""
}

function unescape(text) {
  gsub(/&lt;/, "<", text)
  gsub(/&gt;/, ">", text)
  gsub(/&quot;/, "\"", text)
  gsub(/&amp;/, "\\&", text)
  return text
}

/^\t<testcase name="/ {
  split($0, field, "\"")
  test = field[2]
  status = field[length(field) - 1]
  functions = asked_to_skip = 0
  last = current = ""
  split("", state)
  split("", reason)
  next
}
/^\t<\/testcase>/ { finish(); next }
/^\t\t<skipped message="SKIP_RETURN_CODE/ { asked_to_skip = 1; next }
/^\t\t<(failure|skipped) / || /^\t<properties/ || /^\t\t<propert/ { next }
{
  sub(/^\t\t<system-out>/, "")
  sub(/<\/system-out>$/, "")
}
/^\[ RUN      \] / {
  current = substr($0, 14)
  order[++functions] = current
  state[current] = "started"
  last = ""
  next
}
/^\[       OK \] / { end_function("ok"); next }
/^\[  FAILED  \] / { end_function("failed"); next }
/^\[  SKIPPED \] / { end_function("skipped"); next }
/^$/ || /^\[/ { next }
{ last = $0 }

END {
  if (skips != "") printf "\nSkipped:\n%s", skips
  if (failures != "") printf "\nFailed:\n%s", failures
  printf "\n%d passed, %d failed, %d skipped\n", passed, failed, skipped
  exit failed > 0 || passed + failed + skipped == 0
}
