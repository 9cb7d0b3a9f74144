#!/bin/sh
# Install locks, each with exactly what it names and its hashes, with the pip of an interpreter.
#
#   requirements/install.sh PYTHON LOCK...
#
# pip was killed in one of them before: then a package may be there in part and count as installed, so all
# of that lock is unpacked again. A second run waits for the first.
set -eu
python=$1
shift
environment=$(dirname "$(dirname "$python")")
exec 9>>"$environment.lock"
if command -v flock >/dev/null; then flock 9; fi
for lock; do
  unfinished=$environment/installing-$(basename "$lock" .lock)
  again=
  [ ! -e "$unfinished" ] || again=--ignore-installed
  : >"$unfinished"
  status=0
  "$python" -m pip install -qq --disable-pip-version-check --no-deps --require-hashes $again -r "$lock" || status=$?
  rm -f "$unfinished"
  [ $status = 0 ] || exit $status
done
