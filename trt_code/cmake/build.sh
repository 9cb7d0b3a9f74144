#!/bin/sh
# Build trt_code in a folder of its own, then put what came out where it is used, each file whole.
#
#   trt_code/cmake/build.sh FOLDER OUTPUT [options of cmake]
#
# A second run waits for the first. After one that was killed nobody can tell which objects are whole,
# and make takes any that is newer than its source: the next run begins again. So it does after one
# that could not be configured the first time or found no room.
set -eu
folder=$1 output=$2
shift 2
fail() {
  echo "error: $*" >&2
  exit 2
}

# true, for a colon that cannot be redirected ends the shell without a word
{ mkdir -p "$folder" && true >>"$folder.lock"; } 2>/dev/null ||
  fail "cannot write $folder; is there room on its disk, and may it be written?"
exec 9>>"$folder.lock"
if command -v flock >/dev/null && ! flock -n 9; then
  echo "waiting for another build in $folder"
  flock 9
fi

# NVIDIA's packages for pip: nvcc looks for libraries in lib64 and has them in lib, and CMake for libcudart.so,
# which has its version behind it there
cuda=$(dirname "$(dirname "${CUDACXX:-/usr/bin/nvcc}")")
if [ ! -e "$cuda/lib64" ] && [ -e "$cuda/lib/libcudart_static.a" ]; then
  export LIBRARY_PATH="$cuda/lib${LIBRARY_PATH:+:$LIBRARY_PATH}"
  set -- "-DCUDA_CUDART=$(ls "$cuda"/lib/libcudart.so.*)" "$@"
fi

unfinished=$folder/unfinished
[ ! -e "$unfinished" ] || rm -rf "$folder"
{ mkdir -p "$folder" && true >"$unfinished"; } 2>/dev/null ||
  fail "cannot write $folder; is there room on its disk, and may it be written?"
cmake -S "$(dirname "$0")/.." -B "$folder" -DLITE_OUTPUT_DIR="$PWD/$folder/out" "$@" || {
  # what CMake finds out about a compiler it finds out once, and without room it is wrong
  [ ! -d "$folder/out" ] || rm -f "$unfinished"
  fail "$folder could not be configured; what CMake says about it is above"
}
# a bare --parallel lets make start every compiler at once
cmake --build "$folder" --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-$(getconf _NPROCESSORS_ONLN)}" || {
  # compilers take back what they could not write, CMake does not: without room nothing is kept
  head -c 1000000 /dev/zero >"$folder/room" 2>/dev/null ||
    fail "$folder could not be built: there is no room on its disk"
  rm -f "$folder/room" "$unfinished"
  fail "$folder could not be built; what CMake or a compiler says about it is above"
}
rm -f "$unfinished"

for file in "$folder"/out/*/*; do
  place=$output/${file#"$folder/out/"}
  cmp -s "$file" "$place" && continue
  temporary=$(dirname "$place")/.$(basename "$place").tmp
  { mkdir -p "$(dirname "$place")" && cp -p "$file" "$temporary" && mv "$temporary" "$place"; } 2>/dev/null || {
    rm -f "$temporary"
    fail "cannot write $place; is there room on its disk, and may it be written?"
  }
done
