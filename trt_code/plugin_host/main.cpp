// Plays TensorRT's part for a plugin library, so that plugins can be tested where TensorRT's core
// library is not available. Everything is real except the engine around the plugins.
//
//   lite_plugin_host_trt10 LIBRARY --fields          creators and their declared fields, as JSON
//   lite_plugin_host_trt10 LIBRARY --cases FILE      run every case of a file (see case_file.h);
//                                                    prints one line of JSON per case
//     --no-device          stop before enqueue even if there is a GPU
//     --drop-undeclared    drop attributes that the creator does not declare, as the ONNX parser
//                          does
//     --at-once TIMES      run every case in a separate thread, all at once, and call enqueue TIMES
//                          more times instead of once from a CUDA graph
//
// Exit status: 0 if no plugin broke a rule (a refusal with a reason is allowed), 1 if one did, 2
// for a library, file or command line that cannot be used.

#include <cstdio>
#include <cstdlib>
#include <future>
#include <iostream>
#include <string>
#include <vector>

#include "case_file.h"
#include "device.h"
#include "library.h"
#include "life.h"

namespace host {
namespace {

std::string quoted(const std::string& value) {
  std::string result = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') {
      result += std::string("\\") + c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\u%04x", c);
      result += escape;
    } else {
      result += c;
    }
  }
  return result + "\"";
}

void printFields(const Library& library) {
  std::string json =
      "{\"tensorrt_major\": " + std::to_string(NV_TENSORRT_MAJOR) + ", \"creators\": [";
  const char* comma = "";
  for (nvinfer1::IPluginCreatorV3One* creator : library.creators()) {
    json += std::string(comma) + "\n  {\"name\": " + quoted(creator->getPluginName()) +
            ", \"version\": " + quoted(creator->getPluginVersion()) +
            ", \"namespace\": " + quoted(creator->getPluginNamespace()) + ", \"fields\": {";
    const nvinfer1::PluginFieldCollection* fields = creator->getFieldNames();
    for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i) {
      json += (i == 0 ? "" : ", ") + quoted(fields->fields[i].name) + ": " +
              quoted(text(fields->fields[i].type));
    }
    json += "}}";
    comma = ",";
  }
  std::cout << json << "\n]}\n";
}

const char* word(Result result) {
  switch (result) {
    case Result::kPassed:
      return "passed";
    case Result::kRefused:
      return "refused";
    case Result::kFault:
      return "fault";
  }
  return "";
}

void printOutcome(const Case& c, const Outcome& outcome) {
  std::cout << "{\"case\": " << quoted(c.name) << ", \"result\": \"" << word(outcome.result)
            << "\", \"stage\": " << quoted(outcome.stage)
            << ", \"enqueued\": " << (outcome.enqueued ? "true" : "false")
            << ", \"timing_cache_id\": " << quoted(outcome.timingCacheId)
            << ", \"message\": " << quoted(outcome.message) << "}" << std::endl;
}

int playCases(const Library& library, Logger& logger, const std::string& path, Options options) {
  const std::vector<Case> cases = readCases(path);
  if (options.device) {
    const std::string problem = deviceProblem();
    if (!problem.empty()) std::cerr << "no enqueue: " << problem << "\n";
    options.device = problem.empty();
  }
  // With a deferred future, a case starts when its result is requested.
  const std::launch when = options.times > 0 ? std::launch::async : std::launch::deferred;
  std::vector<std::future<Outcome>> outcomes;
  for (const Case& c : cases) {
    outcomes.push_back(std::async(when, [&] { return live(library, logger, c, options); }));
  }
  bool faults = false;
  for (size_t i = 0; i < cases.size(); ++i) {
    const Outcome outcome = outcomes[i].get();
    printOutcome(cases[i], outcome);
    faults = faults || outcome.result == Result::kFault;
  }
  return faults ? 1 : 0;
}

int run(int argc, char** argv) {
  constexpr const char* kUsage =
      "usage: lite_plugin_host LIBRARY (--fields | --cases FILE [--no-device] [--drop-undeclared]"
      " [--at-once TIMES])";
  std::string cases;
  bool fields = false;
  Options options;
  options.device = true;
  for (int i = 2; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--fields") {
      fields = true;
    } else if (argument == "--cases" && i + 1 < argc) {
      cases = argv[++i];
    } else if (argument == "--no-device") {
      options.device = false;
    } else if (argument == "--drop-undeclared") {
      options.dropUndeclared = true;
    } else if (argument == "--at-once" && i + 1 < argc && std::atoi(argv[i + 1]) > 0) {
      options.times = std::atoi(argv[++i]);
    } else {
      throw UsageError(kUsage);
    }
  }
  if (argc < 2 || fields == !cases.empty()) throw UsageError(kUsage);
  Logger logger;
  const Library library(argv[1], logger);
  if (!fields) return playCases(library, logger, cases, options);
  printFields(library);
  return 0;
}

}  // namespace
}  // namespace host

int main(int argc, char** argv) {
  try {
    return host::run(argc, argv);
  } catch (const host::UsageError& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
