// Messages to TensorRT's logger, which is reached through the finder passed to `setLoggerFinder`.
// This code does not use libnvinfer's getLogger(), so the library needs no symbol of libnvinfer and
// also loads where libnvinfer is not installed.
#pragma once

#include <NvInferRuntime.h>

#include <string>

namespace lite {

void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept;

// Writes to stderr if no finder is set.
void logError(const std::string& message) noexcept;

}  // namespace lite
