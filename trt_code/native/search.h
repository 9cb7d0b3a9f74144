// Beam search of whole batches. The results are those of train_model/models/numpy_search.py.
#pragma once

#include <cstdint>

#include "program.h"

namespace lite::native {

struct SearchOptions {
  int beam, longest, min_len;  // longest: tokens before eos
  float unk_penalty;
};

// The record of each step, from which train_model/models/hypotheses.collect reads the hypotheses.
struct Record {
  std::int64_t* tokens;   // [longest + 1, batch, beam]
  std::int64_t* parents;  // likewise: the beam that each hypothesis continued
  float* totals;          // likewise: sums of log-probabilities
  std::int64_t* counts;   // [batch] finished hypotheses
  std::int64_t* ends;     // [batch, beam]: step * beam + the beam before eos
  float* end_totals;      // [batch, beam]
};

// Translates src_tokens [batch, width], pad removed, on `threads` threads. Returns the number of
// steps.
int search(Program& program, const std::int64_t* src_tokens, int batch, int width,
           const SearchOptions& options, int threads, const Record& record);

}  // namespace lite::native
