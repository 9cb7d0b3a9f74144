// Messages to TensorRT's logger, reached through the finder that `setLoggerFinder` is given. Not
// through libnvinfer's getLogger(): the library then needs no symbol of libnvinfer and also loads
// where there is none.
#pragma once

#include <NvInferRuntime.h>

#include <string>

namespace lite {

void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept;

// To stderr while no finder is set.
void logError(const std::string& message) noexcept;

}  // namespace lite
