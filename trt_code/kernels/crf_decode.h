// Viterbi decoding of a linear-chain CRF over the best `beam` tokens of each position, with
// low-rank transitions: score(i -> j) = E1[i] . E2[j]. The class is fairseq's DynamicCRF.
#pragma once

#include "common.h"

namespace lite {

constexpr int32_t kCrfDecodeMaxBeam = 64;
constexpr int32_t kCrfDecodeMaxLength = 512;

/// emissions and targets are [batch, length, beam]; E1 and E2 are [vocab, rank]; mask, tokens and
/// scores are [batch, length].
struct CrfDecodeParams {
  int32_t batch;
  int32_t length;
  int32_t beam;
  int32_t vocab;
  int32_t rank;
  DataType dtype;  // of emissions, E1 and E2
};

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
inline const char* check(const CrfDecodeParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.batch < 0 || p.length < 0) return "batch and length must not be negative";
  if (p.beam < 1 || p.beam > kCrfDecodeMaxBeam) return "the beam must be in 1..64";
  if (p.length > kCrfDecodeMaxLength) return "the length must be at most 512";
  if (p.vocab < 1 || p.rank < 1) return "vocab and rank must be at least 1";
  return nullptr;
}

/// Returns the size in bytes of the scratch memory that crfDecode needs. The memory is 4-byte
/// aligned device memory, and its initial contents do not matter.
size_t crfDecodeWorkspaceSize(const CrfDecodeParams& params);

/// Decodes the best path. Where mask[b, t] is 0 for t >= 1, the path keeps its state, as in
/// fairseq. tokens[b, t] is the entry of targets on the best path (the lowest slot if paths tie).
///
/// scores are fairseq's: the difference between the prefix scores at t and t - 1. The prefix score
/// at t is read through the slot chosen for t + 1. These are not the textbook per-position scores,
/// but they add up to the score of the best path. Path scores are FP32 for every data type.
///
/// A target outside [0, vocab) reads the nearest row of E1 and E2.
cudaError_t crfDecode(const CrfDecodeParams& params, const void* emissions, const int32_t* targets,
                      const void* E1, const void* E2, const int32_t* mask, int32_t* tokens,
                      float* scores, void* workspace, cudaStream_t stream);

}  // namespace lite
