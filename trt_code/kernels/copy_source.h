// Computes the decoder's first input. Unknown positions get the attention copy of the source
// embeddings, the two ends get their own embeddings. The position embeddings are added to all of
// them.
#pragma once

#include "common.h"
#include "special_tokens.h"

namespace lite {

/// The canvas of a sentence of length n is <s> (0), then n - 2 times <unk> (3), </s> (2), then
/// <pad> (1).
struct CopySourceParams {
  int32_t batch, length, source, channels, vocab, positions;
  DataType dtype;
};

constexpr int kMaxCopySource = 512;  // positions of the source

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
inline const char* check(const CopySourceParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.batch < 0 || p.length < 0) return "batch and length must not be negative";
  if (p.source < 1 || p.source > kMaxCopySource) return "the source must have 1 to 512 positions";
  if (p.channels < 1 || p.channels > 2048) return "channels must be 1 to 2048";
  if (p.vocab < 4) return "the vocabulary must hold the four special tokens";
  if (p.positions < int64_t(p.length) + kFirstPosition) {
    return "the length needs more positions than there are";
  }
  return nullptr;
}

struct CopySourceTensors {
  const int64_t* lengths;  // [batch], of the targets
  const void* queries;   // [positions, channels], queries of the copy (row 2 is the first position)
  const void* keys;      // [batch, source, channels]
  const void* embedded;  // [batch, source, channels], the embeddings to copy
  const int32_t* sourceMask;  // [batch, source], 0 at padding
  const void* embedding;      // [vocab, channels], of the target's tokens
  const void* positionRows;   // [positions, channels], of the target
  void* x;                    // out: [batch, length, channels]
  int32_t* mask;              // out: [batch, length], 0 after the end
};

cudaError_t copySource(const CopySourceParams& params, const CopySourceTensors& tensors,
                       cudaStream_t stream);

}  // namespace lite
