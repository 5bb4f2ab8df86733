#!/bin/sh
# The report in headless Chromium: it opens without a message on the console, its text is there, the picture is not
# blank, and a phone's width needs no sideways scrolling. Skipped without Chromium.
. tests/cli/common
browser=$(command -v chromium || command -v chromium-browser || true)
[ -n "$browser" ] || { echo "no Chromium (apt-get install chromium)"; exit 77; }
cp "$root/examples/demo/digits.onnx" digits.onnx
"$QBOUND" quantize digits.onnx -o w4.onnx --bits 4 >/dev/null
"$QBOUND" certify digits.onnx w4.onnx -o w4.json --preprocess unit --method layerwise --no-search >/dev/null
"$QBOUND" report digits.onnx w4.onnx --data digits:40:2 --preprocess unit --certificate w4.json -o page.html \
  --sensitivity 2 >/dev/null
open() { # SIZE FILE OPTION..
  size=$1 file=$2
  shift 2
  HOME=$work timeout 120 "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$work/profile" \
    --enable-logging=stderr --v=0 --window-size="$size" "$@" "file://$work/$file"
}

open 1200,2400 page.html --screenshot="$work/page.png" 2>log.txt >/dev/null || { cat log.txt; echo "Chromium does not run here"; exit 77; }
grep -q CONSOLE log.txt && fail "the page writes to the console: $(grep CONSOLE log.txt)"
[ "$(wc -c <page.png)" -gt 40000 ] || fail "the picture is blank"
open 1200,2400 page.html --dump-dom 2>/dev/null >dom.html
for part in 'decides differently on' 'Layer by layer' 'Inputs that change most'; do
  grep -qF "$part" dom.html || fail "the browser does not show '$part'"
done

# the widest thing of the page, told by a script that only this copy has
sed 's|</body>|<script>document.title="WIDTH "+document.documentElement.scrollWidth</script></body>|' page.html >probe.html
cat >frame.html <<'PAGE'
<iframe id="f" src="probe.html" style="width:375px;height:800px;border:0"></iframe>
<script>onload=()=>{document.title="WIDTH "+document.getElementById("f").contentDocument.documentElement.scrollWidth}</script>
PAGE
open 800,900 frame.html --allow-file-access-from-files --dump-dom 2>/dev/null >frame.txt
grep -qE '<title>WIDTH (3[0-6][0-9]|37[0-5])</title>' frame.txt || fail "a phone has to scroll sideways: $(grep -o '<title>.*</title>' frame.txt)"
