#!/bin/sh
# Build trt_code in FOLDER, then move the complete libraries to OUTPUT.
#
#   trt_code/cmake/build.sh FOLDER OUTPUT [options of cmake]
#
# A second run waits for the first. After a killed run, some objects may be incomplete, and make takes
# every object that is newer than its source. So the next run starts from an empty folder. The same holds
# after a first configuration that failed, and after a full disk.
set -eu
folder=$1 output=$2
shift 2
fail() {
  echo "error: $*" >&2
  exit 2
}

# "true" instead of ":", because a failed redirection of ":" ends the shell without a message
{ mkdir -p "$folder" && true >>"$folder.lock"; } 2>/dev/null ||
  fail "cannot write $folder; is there room on its disk, and may it be written?"
exec 9>>"$folder.lock"
if command -v flock >/dev/null && ! flock -n 9; then
  echo "waiting for another build in $folder"
  flock 9
fi

# In NVIDIA's packages for pip the libraries are in lib, but nvcc looks in lib64. CMake looks for libcudart.so;
# the packages have only a file with the version in its name.
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
  # CMake tests a compiler once and keeps the result, which is wrong if the disk was full
  [ ! -d "$folder/out" ] || rm -f "$unfinished"
  fail "$folder could not be configured; what CMake says about it is above"
}
# a bare --parallel lets make start every compiler at once
cmake --build "$folder" --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-$(getconf _NPROCESSORS_ONLN)}" || {
  # compilers remove files that they could not complete, CMake does not: on a full disk nothing is kept
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
