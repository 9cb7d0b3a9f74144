#!/bin/sh
# Install locks, each with exactly what it names and its hashes, with the pip of an interpreter.
#
#   requirements/install.sh [--if-any] PYTHON LOCK...
#
# --if-any goes on without a lock of which pip's indexes have no such version; a file that is there with
# another hash is an error as without it. A second run waits for the first.
set -eu
fail() {
  echo "error: $*" >&2
  exit 2
}

if_any=
if [ "$1" = --if-any ]; then
  if_any=yes
  shift
fi
python=$1
shift
environment=$(dirname "$(dirname "$python")")
{ true >>"$environment.lock"; } 2>/dev/null || fail "cannot write $environment.lock"
exec 9>>"$environment.lock"
if command -v flock >/dev/null; then flock 9; fi

# A pip that is killed or finds no room leaves packages in part, and those that it can name count as installed.
# The name of the installer is what it writes last.
for package in "$environment"/lib/python*/site-packages/*.dist-info; do
  [ ! -d "$package" ] || [ -e "$package/INSTALLER" ] || rm -rf "$package"
done
for lock; do
  said=$("$python" -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r "$lock" 2>&1) || {
    case $if_any$said in
    *OSError*) ;; # without room for this build, any other would be larger
    yes*"No matching distribution"*) continue ;;
    esac
    echo "$said" >&2
    fail "$lock could not be installed; what pip says about it is above"
  }
done
