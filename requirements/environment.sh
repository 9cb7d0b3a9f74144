#!/bin/sh
# Make .venv with the given interpreter, unless it exists.
#
#   requirements/environment.sh PYTHON
#
# An incomplete .venv, left by a kill or a full disk, is made again. A .venv from before is only completed.
set -eu
fail() {
  echo "error: .venv could not be made; is there room on its disk, and may it be written?" >&2
  exit 2
}

making=.venv.making
[ ! -e $making ] || rm -rf .venv
[ ! -x .venv/bin/pip ] || exit 0
[ -e .venv ] || { true >$making; } 2>/dev/null || fail
"$1" -m venv .venv || {
  [ ! -e $making ] || rm -rf .venv $making
  fail
}
rm -f $making
