#include "plugin_common/log.h"

#include <atomic>
#include <cstdio>

namespace lite {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> loggerFinder{nullptr};

}  // namespace

void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept { loggerFinder = finder; }

void logError(const std::string& message) noexcept {
  nvinfer1::ILoggerFinder* finder = loggerFinder;
  nvinfer1::ILogger* logger = finder != nullptr ? finder->findLogger() : nullptr;
  if (logger != nullptr) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, message.c_str());
  } else {
    std::fprintf(stderr, "%s\n", message.c_str());
  }
}

}  // namespace lite
