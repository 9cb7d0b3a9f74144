// Predicts the target's length: the best length class for the mean over the real source positions.
#pragma once

#include "common.h"

namespace lite {

/// x is [batch, source, channels], weight [classes, channels].
struct PredictLengthParams {
  int32_t batch, source, channels, classes;
  /// The length is the class plus offset, plus the number of real positions if `relative`.
  int32_t offset;
  bool relative;
  DataType dtype;
};

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
inline const char* check(const PredictLengthParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.batch < 0) return "the batch must not be negative";
  if (p.source < 1 || p.classes < 1) return "source and classes must be at least 1";
  if (p.channels < 1 || p.channels > 8192) return "channels must be 1 to 8192";
  return nullptr;
}

/// mask [batch, source] is 0 at padding. lengths [batch] are at least 2 and at most limits [batch].
/// If classes have equal scores, the lowest class is chosen. The mean and the scores are FP32.
cudaError_t predictLength(const PredictLengthParams& params, const void* x, const int32_t* mask,
                          const void* weight, const int64_t* limits, int64_t* lengths,
                          cudaStream_t stream);

}  // namespace lite
