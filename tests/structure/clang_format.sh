#!/bin/sh
# The sources are laid out as .clang-format says (./dev format does it). Other versions of the tool lay out a little
# differently, so only the one that Debian 12 has counts.
set -eu
command -v clang-format >/dev/null || { echo "clang-format is not installed"; exit 77; }
case $(clang-format --version) in
*' 14.'*) ;;
*) echo "another version than 14: $(clang-format --version)"; exit 77 ;;
esac
find . -path ./build -prune -o -name '*.[ch]' -print | sort | xargs clang-format --dry-run -Werror ||
  { echo "not laid out; run ./dev format"; exit 1; }
