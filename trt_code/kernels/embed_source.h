// The encoder's input: token embeddings, with position embeddings counted over what is not padding.
#pragma once

#include "common.h"

namespace lite {

/// tokens are [batch, length], embedding [vocab, channels], positions [positions, channels].
struct EmbedSourceParams {
  int32_t batch, length, channels, vocab, positions;
  DataType dtype;
};

/// Why these parameters cannot run, in one line; nullptr when they can.
inline const char* check(const EmbedSourceParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.batch < 0 || p.length < 0) return "batch and length must not be negative";
  if (p.channels < 1) return "channels must be at least 1";
  if (p.vocab < 4) return "the vocabulary must hold the four special tokens";
  if (p.positions < p.length + 2) return "the length needs more positions than there are";
  return nullptr;
}

/// A token outside the vocabulary counts as <unk> (3). Written: embedded [batch, length, channels],
/// the token embeddings alone; x, the same plus the positions (from 2 on, 1 at padding); mask
/// [batch, length], 0 at padding (token 1) and 1 elsewhere.
cudaError_t embedSource(const EmbedSourceParams& params, const int64_t* tokens,
                        const void* embedding, const void* positions, void* x, void* embedded,
                        int32_t* mask, cudaStream_t stream);

}  // namespace lite
