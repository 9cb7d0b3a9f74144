// Runs every kernel on shapes that reach each of its code paths, on buffers of exactly the right
// size. It checks which memory the kernels access and whether their results repeat.
// trt_code/tests/kernels/test_*_gpu.py check the numbers.
//
//   kernel_driver           on memory next to unmapped pages, first behind the buffers and then
//                           before them; every call runs twice and from a graph (session.h)
//   kernel_driver --once    every call once, on plain allocations, for compute-sanitizer
//                           (sanitize.sh); --once-without-stacks: all but conv_stack;
//                           --once-without-wide: all but linear_wide
//
// Exits with status 1 at the first error, because a broken kernel also breaks the CUDA context.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cases.h"

namespace {

/// Which kernels run, besides those that always do.
struct Parts {
  bool stacks = true, wide = true;
};

void runAll(driver::Mode mode, const Parts& parts) {
  cudaStream_t stream = nullptr;
  driver::require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  driver::runOperators(mode, stream);
  driver::runNetwork(mode, stream);
  driver::runSearches(mode, stream);
  if (parts.wide) driver::runWideProducts(mode, stream);
  if (parts.stacks) driver::runStacks(mode, stream);
  driver::require(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

}  // namespace

int main(int argc, char** argv) {
  const auto given = [&](const char* option) {
    return argc == 2 && std::strcmp(argv[1], option) == 0;
  };
  const Parts parts{!given("--once-without-stacks"), !given("--once-without-wide")};
  const bool once = given("--once") || !parts.stacks || !parts.wide;
  if (argc > 1 && !once) {
    std::fprintf(stderr,
                 "usage: kernel_driver [--once | --once-without-stacks | --once-without-wide]\n");
    return 2;
  }
  try {
    if (once) {
      runAll(driver::Mode::kOnce, parts);
    } else {
      runAll(driver::Mode::kGuardBehind, parts);
      runAll(driver::Mode::kGuardBefore, parts);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "FAILED: %s\n", error.what());
    return EXIT_FAILURE;
  }
  std::puts("no finding");
  return EXIT_SUCCESS;
}
