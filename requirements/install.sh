#!/bin/sh
# Install the packages of lock files with an interpreter's pip: exact versions, hashes checked.
#
#   requirements/install.sh [--if-any] PYTHON LOCK...
#
# --if-any skips a lock if pip's indexes do not have the version. A wrong hash is an error in any case.
# A second run waits for the first.
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

# A pip that is killed, or that finds the disk full, leaves partial packages, which pip then takes for installed.
# pip writes the file INSTALLER last, so a package without it is incomplete.
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
