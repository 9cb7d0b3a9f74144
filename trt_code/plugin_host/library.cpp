#include "library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

#include "case_file.h"

namespace host {
namespace {

thread_local std::string loggedErrors;

template <typename Function>
Function symbol(void* handle, const char* name, const std::string& path) {
  void* address = dlsym(handle, name);
  if (address == nullptr) throw UsageError(path + " does not export " + name);
  return reinterpret_cast<Function>(address);
}

// A library of another major version would be called through the wrong vtables. Its name shows the
// version.
void checkMajor(const std::string& path) {
  const std::string tag = "_trt";
  const size_t at = path.rfind(tag);
  if (at == std::string::npos) return;
  const int major = std::atoi(path.c_str() + at + tag.size());
  if (major != 0 && major != NV_TENSORRT_MAJOR) {
    throw UsageError(path + " is for TensorRT " + std::to_string(major) +
                     ", this host for TensorRT " + std::to_string(NV_TENSORRT_MAJOR));
  }
}

}  // namespace

void Logger::log(Severity severity, const char* message) noexcept {
  if (severity > Severity::kERROR) return;
  loggedErrors +=
      (loggedErrors.empty() ? "" : "; ") + std::string(message != nullptr ? message : "");
}

std::string Logger::takeErrors() {
  std::string errors;
  errors.swap(loggedErrors);
  return errors;
}

Library::Library(const std::string& path, Logger& logger) : finder_(logger) {
  checkMajor(path);
  // Never closed: as in a serving process, creators and plugins live until the process ends.
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw UsageError(dlerror());
  symbol<void (*)(nvinfer1::ILoggerFinder*)>(handle, "setLoggerFinder", path)(&finder_);
  using GetCreators = nvinfer1::IPluginCreatorInterface* const* (*)(int32_t&);
  int32_t count = 0;
  auto* const* creators = symbol<GetCreators>(handle, "getCreators", path)(count);
  for (int32_t i = 0; i < count; ++i) {
    if (std::strcmp(creators[i]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") != 0) {
      throw UsageError(path + " has a creator that is not an IPluginCreatorV3One");
    }
    creators_.push_back(static_cast<nvinfer1::IPluginCreatorV3One*>(creators[i]));
  }
}

nvinfer1::IPluginCreatorV3One* Library::find(const std::string& name, const std::string& version,
                                             const std::string& pluginNamespace) const {
  for (nvinfer1::IPluginCreatorV3One* creator : creators_) {
    if (name == creator->getPluginName() && version == creator->getPluginVersion() &&
        pluginNamespace == creator->getPluginNamespace()) {
      return creator;
    }
  }
  return nullptr;
}

}  // namespace host
