// Shares the sentences of a batch among threads.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "program.h"

namespace lite::native {

constexpr int kWhole = std::numeric_limits<int>::max();

// Shares the sentences of src_tokens [batch, width] among threads. The threads take groups of
// sentences, which end when they have at least `most_tokens` tokens; for kWhole there is one group
// for each thread. A thread packs its group without pad and calls `work` with the thread's number
// from 0 to threads - 1, a workspace that has begun the source's stage, and the numbers of the
// group's sentences. With fewer sentences than threads, a workspace may have a team. Several
// callers share `threads` threads, see Budget. Throws what `work` throws, and InputError for a
// token or a sentence that the network does not take.
void on_threads(Program& program, const std::int64_t* src_tokens, int batch, int width, int threads,
                int most_tokens,
                const std::function<void(int, Workspace&, const std::vector<int>&)>& work);

}  // namespace lite::native
