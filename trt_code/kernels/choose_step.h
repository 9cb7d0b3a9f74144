// Ends one step of a beam search: log-probabilities, the best continuations, and the search's
// state, as train_model/models/beam_search.py computes them.
#pragma once

#include "common.h"

namespace lite {

/// A step keeps 2 x beam continuations, one per lane of a warp.
constexpr int32_t kMostBeams = 16;

/// logits are [batch, beam, vocab].
struct ChooseStepParams {
  int32_t batch, beam, vocab;
  int32_t steps;  // room in the tables of past steps
  DataType dtype;
};

/// The state of a search, on the device; `Search` in beam_search.py explains the tensors.
struct SearchState {
  int64_t *tokens, *parents;          // [batch, beam]
  float* totals;                      // [batch, beam]
  int64_t* step;                      // []
  bool* done;                         // []
  int64_t *pastTokens, *pastParents;  // [steps, batch, beam]
  float* pastTotals;                  // [steps, batch, beam]
  int64_t* count;                     // [batch], finished hypotheses
  int64_t* endAt;                     // [batch, beam + 1]
  float* endTotal;                    // [batch, beam + 1]
};

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
const char* check(const ChooseStepParams& params);

/// Chooses every hypothesis' continuation and advances the state by one step.
///
/// forbidden [3, vocab] is added to the log-probabilities, its row kinds[step] (of kinds [steps]).
/// Of equal candidates, the one with the lower number comes first; NaN counts as -infinity. values
/// and indices [batch x beam, 2 x beam] are scratch memory; counters [2] must be 0 before the first
/// call and are 0 after each.
cudaError_t chooseStep(const ChooseStepParams& params, const void* logits, const float* forbidden,
                       const int64_t* kinds, const SearchState& state, float* values,
                       int32_t* indices, int32_t* counters, cudaStream_t stream);

}  // namespace lite
