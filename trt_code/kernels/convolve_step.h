// A causal dynamic convolution in one step of a search: gate, taps from the gated input, softmax,
// and the weighted sum over the newest inputs of every hypothesis.
#pragma once

#include "common.h"

namespace lite {

/// x are rows of channels, or of 2 x channels with the gate, `stride` elements apart; out are rows
/// of channels, `outStride` elements apart. inputs are [rows, capacity, channels].
struct ConvolveStepParams {
  int32_t rows, capacity, channels, heads, kernelSize;
  int64_t stride, outStride;
  bool glu, softmax;
  DataType dtype;
};

/// Returns the number of neighbouring channels in the taps' weights [channels / n, heads x
/// kernelSize, n].
inline int32_t tapsVector(DataType dtype) { return 16 / int32_t(elementSize(dtype)); }

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
const char* check(const ConvolveStepParams& params);

/// Writes the gated input of every row to position `*position` of inputs, then convolves it with
/// the `kernelSize - 1` inputs before it. ancestors and position are as in attend_step.h. weight
/// has the order of tapsVector and starts at a multiple of 16 bytes. Without `softmax`, taps are
/// used as they are.
cudaError_t convolveStep(const ConvolveStepParams& params, const void* x, const void* weight,
                         void* inputs, const int32_t* ancestors, const int64_t* position, void* out,
                         cudaStream_t stream);

}  // namespace lite
