#!/bin/sh
# Install locks, each with exactly what it names and its hashes, with the pip of an interpreter.
#
#   requirements/install.sh PYTHON LOCK...
#
# pip was killed in one of them before, or found no room: then a package may be there in part and count as
# installed, so all of that lock is unpacked again. A second run waits for the first.
set -eu
python=$1
shift
environment=$(dirname "$(dirname "$python")")
fail() {
  echo "error: $*" >&2
  exit 2
}

{ true >>"$environment.lock"; } 2>/dev/null || fail "cannot write $environment.lock"
exec 9>>"$environment.lock"
if command -v flock >/dev/null; then flock 9; fi
for lock; do
  unfinished=$environment/installing-$(basename "$lock" .lock)
  again=
  [ ! -e "$unfinished" ] || again=--ignore-installed
  { true >"$unfinished"; } 2>/dev/null || fail "cannot write $environment"
  "$python" -m pip install -qq --disable-pip-version-check --no-deps --require-hashes $again -r "$lock" || {
    # one that unpacked nothing, since there is no network for instance, costs no new start
    unpacked=$(find "$environment" -newer "$unfinished" -type f -path '*-packages/*' ! -path '*/__pycache__/*')
    [ -n "$unpacked" ] || rm -f "$unfinished"
    fail "$lock could not be installed; what pip says about it is above"
  }
  rm -f "$unfinished"
done
