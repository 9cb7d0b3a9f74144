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

# Packages of which PyPI has only the source. pip would fetch their build tools without hashes. So their wheels are
# built first, with the tools of build.lock in an environment of their own.
sources='antlr4-python3-runtime|docopt|fairseq|tensorrt-rtx|tensorrt-rtx-cu13'
tools=$(dirname "$0")/build.lock
building=$environment.build
trap 'rm -rf "$building"' EXIT
trap 'exit 130' INT TERM
run_pip() {
  interpreter=$1 command=$2
  shift 2
  "$interpreter" -m pip "$command" -qq --disable-pip-version-check --no-deps "$@"
}
entries() {  # the entries of the lock $1 that are sources (1) or not (0)
  folder=$(cd "$(dirname "$1")" && pwd)
  awk -v sources="^($sources)==" -v wanted="$2" -v folder="$folder" \
    '/^[^ #]/ { kind = ($0 ~ sources) } { sub(/^-r /, "-r " folder "/") } kind + 0 == wanted' "$1"
}
build() {  # wheels of the sources in the file $1
  "$python" -m venv "$building/tools"
  run_pip "$building/tools/bin/python" install --only-binary :all: --require-hashes -r "$tools" &&
    run_pip "$building/tools/bin/python" wheel --no-build-isolation --no-binary :all: --require-hashes \
      -r "$1" -w "$building/wheels"
}
install() {  # the lock $1
  if ! grep -Eq "^($sources)==" "$1"; then
    run_pip "$python" install --only-binary :all: --require-hashes -r "$1"
    return
  fi
  entries "$1" 0 >"$building/lock" && entries "$1" 1 >"$building/sources" &&
    run_pip "$python" install --only-binary :all: --require-hashes -r "$building/lock" || return
  sed '/^ /d; s/ *\\$//' "$building/sources" >"$building/names"
  # are they installed already? Nothing may come from a folder of wheels that pip's configuration names
  (unset PIP_FIND_LINKS; PIP_CONFIG_FILE=/dev/null run_pip "$python" install --no-index -r "$building/names") \
    >/dev/null 2>&1 ||
    { build "$building/sources" && run_pip "$python" install --no-index "$building"/wheels/*.whl; }
}

# A pip that is killed, or that finds the disk full, leaves partial packages, which pip then takes for installed.
# pip writes the file INSTALLER last, so a package without it is incomplete.
for package in "$environment"/lib/python*/site-packages/*.dist-info; do
  [ ! -d "$package" ] || [ -e "$package/INSTALLER" ] || rm -rf "$package"
done
for lock; do
  rm -rf "$building"
  mkdir "$building" 2>/dev/null || fail "cannot write $building"
  said=$(install "$lock" 2>&1) || {
    case $if_any$said in
    *OSError*) ;; # without room for this build, any other would be larger
    yes*"No matching distribution"*) continue ;;
    esac
    echo "$said" >&2
    fail "$lock could not be installed; what pip says about it is above"
  }
done
