// The two symbols that TensorRT's IPluginRegistry::loadLibrary looks for, and all that this library
// shows. Nothing is registered statically besides: that would register every plugin twice.

#include <NvInferRuntime.h>

#include "CrfDecodePlugin/crf_decode_plugin.h"
#include "DynamicConvPlugin/dynamic_conv_plugin.h"
#include "LayerNormPlugin/layer_norm_plugin.h"
#include "TopKPlugin/top_k_plugin.h"
#include "plugin_common/creator.h"
#include "plugin_common/log.h"

// TENSORRTAPI is empty outside TensorRT's own build, so the visibility is set here.
#define LITE_EXPORT extern "C" __attribute__((visibility("default")))

LITE_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& nbCreators) {
  static lite::Creator<lite::CrfDecodePlugin> crfDecode;
  static lite::Creator<lite::DynamicConvPlugin> dynamicConv;
  static lite::Creator<lite::LayerNormPlugin> layerNorm;
  static lite::Creator<lite::TopKPlugin> topK;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&crfDecode, &dynamicConv,
                                                                &layerNorm, &topK};
  nbCreators = sizeof(creators) / sizeof(creators[0]);
  return creators;
}

LITE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { lite::setLoggerFinder(finder); }
