// The two symbols that TensorRT's IPluginRegistry::loadLibrary looks up. This library exports
// nothing else. TensorRT registers the creators that getCreators returns. A
// REGISTER_TENSORRT_PLUGIN in the same library would register every plugin twice.

#include <NvInferRuntime.h>

#include <algorithm>
#include <string>

#include "plugin_common/creator.h"
#include "plugin_common/log.h"

// TENSORRTAPI is empty outside TensorRT's own build, so the visibility is set here.
#define LITE_EXPORT extern "C" __attribute__((visibility("default")))

namespace lite {

std::vector<nvinfer1::IPluginCreatorInterface*>& registeredCreators() {
  static std::vector<nvinfer1::IPluginCreatorInterface*> creators;
  return creators;
}

namespace {

std::string nameOf(nvinfer1::IPluginCreatorInterface* creator) {
  return static_cast<nvinfer1::IPluginCreatorV3One*>(creator)->getPluginName();
}

// The linker decides the order of registration. Sorting by name gives the same order in every
// build.
const std::vector<nvinfer1::IPluginCreatorInterface*>& creatorsByName() {
  static const auto sorted = [] {
    auto creators = registeredCreators();
    std::sort(creators.begin(), creators.end(),
              [](auto* a, auto* b) { return nameOf(a) < nameOf(b); });
    return creators;
  }();
  return sorted;
}

}  // namespace
}  // namespace lite

LITE_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& nbCreators) {
  const auto& creators = lite::creatorsByName();
  nbCreators = static_cast<int32_t>(creators.size());
  return creators.data();
}

LITE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { lite::setLoggerFinder(finder); }
