// Computes the encoder's input: token embeddings plus position embeddings. Positions are counted
// over tokens that are not padding.
#pragma once

#include "common.h"
#include "special_tokens.h"

namespace lite {

/// tokens are [batch, length], embedding [vocab, channels], positions [positions, channels].
struct EmbedSourceParams {
  int32_t batch, length, channels, vocab, positions;
  DataType dtype;
};

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
inline const char* check(const EmbedSourceParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.batch < 0 || p.length < 0) return "batch and length must not be negative";
  if (p.channels < 1) return "channels must be at least 1";
  if (p.vocab < 4) return "the vocabulary must hold the four special tokens";
  if (p.positions < int64_t(p.length) + kFirstPosition) {
    return "the length needs more positions than there are";
  }
  return nullptr;
}

/// Writes embedded [batch, length, channels], the token embeddings alone; x, the same plus the
/// position embeddings (positions from 2 on, 1 at padding); and mask [batch, length], 0 at padding
/// (token 1) and 1 elsewhere. A token outside the vocabulary counts as <unk> (3).
cudaError_t embedSource(const EmbedSourceParams& params, const int64_t* tokens,
                        const void* embedding, const void* positions, void* x, void* embedded,
                        int32_t* mask, cudaStream_t stream);

}  // namespace lite
