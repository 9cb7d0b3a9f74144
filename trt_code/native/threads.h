// Shares the sentences of a batch among threads.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "program.h"

namespace lite::native {

// Shares the sentences of src_tokens [batch, width] among threads. Each packs its sentences without
// pad, in groups that end when they have at least `most_tokens` tokens, and calls `work` for each
// group with the thread's number from 0 to threads - 1, a workspace that has begun the source's
// stage, and the numbers of the group's sentences. With fewer sentences than threads, a workspace
// may have a team. Several callers share `threads` threads, see Budget. Throws what `work` throws,
// and InputError for a token or a sentence that the network does not take.
void on_threads(Program& program, const std::int64_t* src_tokens, int batch, int width, int threads,
                int most_tokens,
                const std::function<void(int, Workspace&, std::vector<int>)>& work);

}  // namespace lite::native
