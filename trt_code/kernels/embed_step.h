// Begins one step of a search: the embedding of every hypothesis' last token, and where its past
// is.
#pragma once

#include "common.h"

namespace lite {

/// embedding is [vocab, channels], positions [positions, channels].
struct EmbedStepParams {
  int32_t batch, beam, channels, vocab, positions;
  int32_t capacity;  // of the table of ancestors
  float scale;       // of the token's embedding
  DataType dtype;
};

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
inline const char* check(const EmbedStepParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.batch < 0 || p.beam < 1) return "batch must not be negative, and beam at least 1";
  if (p.channels < 1 || p.capacity < 1) return "channels and capacity must be at least 1";
  if (p.vocab < 4) return "the vocabulary must hold the four special tokens";
  if (p.positions < 0) return "positions must not be negative";
  return nullptr;
}

/// Writes x [batch, beam, channels], the scaled embedding of tokens [batch, beam] plus the row of
/// `positions`, if there are any, for `*position` earlier tokens. A token outside the vocabulary
/// counts as <unk> (3), a position outside the table as its last row.
///
/// Also brings ancestors [2, batch x beam, capacity] up to date (history.cuh), if given: a
/// hypothesis has the past of the one that it continues, number `parents` [batch, beam] of its
/// sentence, and its newest position in its own row.
cudaError_t embedStep(const EmbedStepParams& params, const int64_t* tokens, const int64_t* parents,
                      const int64_t* position, const void* embedding, const void* positions,
                      int32_t* ancestors, void* x, cudaStream_t stream);

}  // namespace lite
