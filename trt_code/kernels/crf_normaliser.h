// The normaliser of a linear-chain CRF over the best `beam` tokens of each position, and its
// gradients, for training: the logarithm of the sum over all paths of exp(score).
#pragma once

#include "common.h"

namespace lite {

constexpr int32_t kCrfNormaliserMaxBeam = 64;

/// emissions are [batch, length, beam], transitions [batch, length - 1, beam, beam] from slot i at
/// t to slot j at t + 1, mask [batch, length].
struct CrfNormaliserParams {
  int32_t batch;
  int32_t length;
  int32_t beam;
  DataType dtype;  // of emissions and transitions
};

/// Returns nullptr if the kernels support these parameters, otherwise the reason in one line.
inline const char* check(const CrfNormaliserParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.batch < 0 || p.length < 0) return "batch and length must not be negative";
  if (p.beam < 1 || p.beam > kCrfNormaliserMaxBeam) return "the beam must be in 1..64";
  return nullptr;
}

/// Computes the logarithms `total` [batch], and `prefixes` [batch, length, beam], those of the sums
/// over the paths that end in a slot at t; both FP32. Where mask[b, t] is 0 for t >= 1, the paths
/// keep their state.
cudaError_t crfNormaliser(const CrfNormaliserParams& params, const void* emissions,
                          const void* transitions, const int32_t* mask, float* total,
                          float* prefixes, cudaStream_t stream);

/// Computes the gradients of emissions and transitions, in their type, given the FP32 gradient of
/// `total` [batch] and what crfNormaliser computed.
cudaError_t crfNormaliserBackward(const CrfNormaliserParams& params, const float* grad,
                                  const void* emissions, const void* transitions,
                                  const int32_t* mask, const float* total, const float* prefixes,
                                  void* gradEmissions, void* gradTransitions, cudaStream_t stream);

}  // namespace lite
