// A plugin library and its creators, loaded as TensorRT's registry loads it: dlopen,
// setLoggerFinder, getCreators.
#pragma once

#include <NvInferRuntime.h>

#include <string>
#include <vector>

namespace host {

// Collects the errors that plugins log, so that a refusal can be reported with its reason. Every
// thread has its own errors, since a plugin logs on the thread that called it.
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override;
  // Returns this thread's errors since the last call, joined.
  std::string takeErrors();
};

class Library {
 public:
  // Throws UsageError if the file is not a plugin library of this TensorRT major version.
  Library(const std::string& path, Logger& logger);
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  const std::vector<nvinfer1::IPluginCreatorV3One*>& creators() const { return creators_; }
  // Returns nullptr if the library has no creator with that name, version and namespace.
  nvinfer1::IPluginCreatorV3One* find(const std::string& name, const std::string& version,
                                      const std::string& pluginNamespace) const;

 private:
  class Finder final : public nvinfer1::ILoggerFinder {
   public:
    explicit Finder(Logger& logger) : logger_(logger) {}
    nvinfer1::ILogger* findLogger() override { return &logger_; }

   private:
    Logger& logger_;
  };

  Finder finder_;
  std::vector<nvinfer1::IPluginCreatorV3One*> creators_;
};

}  // namespace host
