// Runs a plugin through the life that TensorRT gives it, from the creator's fields to destruction,
// and checks the rules of its interface on the way.
#pragma once

#include <string>
#include <vector>

#include "case_file.h"
#include "library.h"

namespace host {

enum class Result {
  kPassed,
  kRefused,  // the plugin refused with a reason; the caller decides whether it was right
  kFault,    // the plugin broke a rule
};

struct Outcome {
  Result result = Result::kPassed;
  std::string stage;  // the last stage that was entered
  std::string message;
  std::string timingCacheId;
  bool enqueued = false;
};

struct Options {
  bool device = false;          // also call enqueue on a GPU
  bool dropUndeclared = false;  // skip undeclared attributes, as the ONNX parser does
  int32_t times = 0;  // call enqueue this many more times, to overlap with other threads' launches
};

// Runs one case. If it calls enqueue, it writes the outputs to the case's result file. Throws
// UsageError for a case that cannot be run.
Outcome live(const Library& library, Logger& logger, const Case& c, const Options& options);

}  // namespace host
