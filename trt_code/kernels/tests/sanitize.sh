#!/bin/sh
# Build the kernels with their driver. Run it with guard pages around its buffers, and then under each tool of
# compute-sanitizer, all at the same time. It needs a GPU and takes minutes.
#
#   trt_code/kernels/tests/sanitize.sh [build folder]        CMAKE_FLAGS passes options to CMake
#
# DRIVER=path takes a kernel_driver that was built elsewhere; logs still go to the build folder.
# Exit status 1 if there was a finding, or if a tool took more than LIMIT seconds (600).
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-build/cmake/kernel-tests}
limit=${LIMIT:-600}

driver=${DRIVER:-$build/tests/kernel_driver}
if [ -z "${DRIVER:-}" ]; then
  # shellcheck disable=SC2086  # the flags are several words
  cmake -S "$source" -B "$build" -DLITE_KERNELS_TESTS=ON -DCMAKE_CUDA_FLAGS=-lineinfo ${CMAKE_FLAGS:-}
  cmake --build "$build" --parallel "$(getconf _NPROCESSORS_ONLN)"
fi
mkdir -p "$build"

echo "== unmapped memory behind and before"
timeout "$limit" "$driver"
tools='memcheck racecheck initcheck synccheck'
for tool in $tools; do
  # Racecheck (2025.3) does not follow that one lane arrives at an mbarrier, after __syncwarp, for
  # its warp: a ring of bulk copies with cuda::barrier has a report with such arrivals, and none when
  # every lane arrives. conv_stack's ring of weights has them throughout.
  # Initcheck (2025.3) does not see what the bulk engine writes to global memory, and reports all of it.
  # The run on guarded memory tests that linear_wide writes every element.
  case $tool in
    racecheck) cases=--once-without-stacks ;;
    initcheck) cases=--once-without-wide ;;
    *) cases=--once ;;
  esac
  (
    status=0
    start=$(date +%s)
    timeout "$limit" compute-sanitizer --tool "$tool" --error-exitcode 1 "$driver" "$cases" \
      >"$build/$tool.log" 2>&1 || status=$?
    echo "status $status after $(($(date +%s) - start)) s" >>"$build/$tool.log"
  ) &
done
wait
found=0
for tool in $tools; do
  echo "== $tool"
  tail -n 40 "$build/$tool.log"
  grep -q '^status 0 ' "$build/$tool.log" || found=1
done
exit $found
