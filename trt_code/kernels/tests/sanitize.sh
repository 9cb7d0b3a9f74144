#!/bin/sh
# Build the kernels with their driver and run it under each tool of compute-sanitizer. Needs a GPU.
#
#   trt_code/kernels/tests/sanitize.sh [build folder]        CMAKE_FLAGS passes options to CMake
#
# Exit status 1 at the first finding.
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-build/cmake/kernel-tests}

# shellcheck disable=SC2086  # the flags are several words
cmake -S "$source" -B "$build" -DLITE_KERNELS_TESTS=ON -DCMAKE_CUDA_FLAGS=-lineinfo ${CMAKE_FLAGS:-}
cmake --build "$build" --parallel
"$build/tests/kernel_driver"
for tool in memcheck racecheck initcheck synccheck; do
  echo "== $tool"
  compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/tests/kernel_driver"
done
