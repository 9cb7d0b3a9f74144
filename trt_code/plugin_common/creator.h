// The creator of one plugin class, and its registration. A plugin's file registers itself with one
// line at its end: `const Registered<TopKPlugin> kRegistered;`. No other file lists the plugins.
#pragma once

#include <NvInferRuntime.h>

#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "plugin_common/attributes.h"
#include "plugin_common/log.h"
#include "plugin_common/plugin.h"

namespace lite {

// The declared fields come from the plugin's own attribute table.
template <typename PluginType>
class Creator : public nvinfer1::IPluginCreatorV3One {
 public:
  Creator()
      : fields_(declareAttributes(PluginType().attributes())),
        collection_{static_cast<int32_t>(fields_.size()), fields_.data()} {}

  const char* getPluginName() const noexcept override { return PluginType::kName; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

  // Only the attributes named here reach createPlugin from an ONNX node. The parser silently drops
  // all others.
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }

  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override {
    try {
      auto plugin = std::make_unique<PluginType>();
      const std::string problem = plugin->initialise(
          fields != nullptr ? *fields : nvinfer1::PluginFieldCollection{}, phase);
      if (problem.empty()) return plugin.release();
      logError(std::string(PluginType::kName) + ": " + problem + " [node '" +
               (name != nullptr ? name : "") + "']");
    } catch (const std::exception& error) {
      logError(std::string(PluginType::kName) + ": " + error.what());
    }
    return nullptr;
  }

 private:
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

// The creators that getCreators returns to TensorRT.
std::vector<nvinfer1::IPluginCreatorInterface*>& registeredCreators();

template <typename PluginType>
struct Registered {
  Registered() {
    static Creator<PluginType> creator;
    registeredCreators().push_back(&creator);
  }
};

}  // namespace lite
