// The life that TensorRT gives a plugin, from the creator's fields to destruction, with the rules
// of its interface checked on the way.
#pragma once

#include <string>
#include <vector>

#include "case_file.h"
#include "library.h"

namespace host {

enum class Result {
  kPassed,
  kRefused,  // the plugin said no, with a reason: right or wrong is for the caller to judge
  kFault,    // the plugin broke a rule
};

struct Outcome {
  Result result = Result::kPassed;
  std::string stage;  // the last one that was entered
  std::string message;
  std::string timingCacheId;
  bool enqueued = false;
};

struct Options {
  bool device = false;          // enqueue on a GPU too
  bool dropUndeclared = false;  // go on, as the ONNX parser does, when an attribute is not declared
  int32_t times = 0;  // enqueue this many times more, to meet the launches of other threads
};

// Lives one case. Writes the outputs to the case's result file when it enqueues. Throws UsageError
// for a case that cannot be played.
Outcome live(const Library& library, Logger& logger, const Case& c, const Options& options);

}  // namespace host
