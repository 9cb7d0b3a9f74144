// Translation in one pass: the predicted lengths, a canvas of unknown tokens, and the choice of
// tokens.
#pragma once

#include <cstdint>

#include "program.h"

namespace lite::native {

// The rule of OnePassTranslator.predict_length (train_model/models/one_pass.py).
struct LengthRule {
  bool is_offset;   // a class is the difference of target and source length
  bool is_bounded;  // by the canvas of the sentence itself
};

// The lengths from the mean of the rows x of each source, into w.lengths. weight: [classes, width].
void predict_lengths(Workspace& w, const float* x, int width, const float* weight, int classes,
                     LengthRule rule);

// Token embeddings of a CRF's transitions, [words, rank] each.
struct Transitions {
  const float *from, *to;
  int rank;
};

// The best path through the `beam` best tokens of each target row, as crf_decode of train_model/ops
// gives it, into w.chosen and w.scores.
void choose_path(Workspace& w, const float* logits, int words, Transitions transitions, int beam);

// The best token of each target row and its log-probability.
void choose_tokens(Workspace& w, const float* logits, int words);

// The source rows at even distances over each target sequence (nonautoregressive_transformer's
// _copy).
void copy_source(const Workspace& w, View source, View out, int width);

// Translates src_tokens [batch, width], pad removed, on `threads` threads.
//   lengths    [batch] target lengths, or null for the predicted ones
//   predicted  [batch] receives those
//   tokens, scores  [batch, room] receive the translations, with pad and 0 after each
void translate(Program& program, const std::int64_t* src_tokens, int batch, int width,
               const std::int64_t* lengths, int threads, std::int64_t* predicted,
               std::int64_t* tokens, float* scores, int room);

}  // namespace lite::native
