#include "threads.h"

#include <algorithm>
#include <exception>
#include <optional>
#include <thread>

#include "../kernels/special_tokens.h"

namespace lite::native {
namespace {

void pack(const Program& program, Workspace& workspace, const std::int64_t* src_tokens, int width,
          const std::vector<int>& sentences) {
  std::vector<std::int32_t> tokens;
  std::vector<Span> spans;
  for (const int sentence : sentences) {
    const int begin = static_cast<int>(tokens.size());
    int before = 0;
    const std::int64_t* row = src_tokens + static_cast<std::size_t>(sentence) * width;
    for (int i = 0; i < width; ++i) {
      if (row[i] < 0 || row[i] >= program.source_vocab)
        throw InputError("token " + std::to_string(row[i]) + " is not in a vocabulary of " +
                         std::to_string(program.source_vocab));
      if (row[i] != kPad)
        tokens.push_back(static_cast<std::int32_t>(row[i]));
      else if (static_cast<int>(tokens.size()) == begin)
        ++before;
    }
    const int end = static_cast<int>(tokens.size());
    spans.push_back({begin, end, before, width - before - (end - begin)});
    if (spans.back().size() > program.max_source)
      throw InputError("a source of " + std::to_string(spans.back().size()) +
                       " tokens is longer than the " + std::to_string(program.max_source) +
                       " positions of the model");
  }
  workspace.begin_source(std::move(tokens), std::move(spans));
}

}  // namespace

void on_threads(Program& program, const std::int64_t* src_tokens, int batch, int width, int threads,
                const std::function<void(int, Workspace&, std::vector<int>)>& work) {
  // threads that are left over share the products; more than there are processors would wait for
  // each other
  const int processors = std::max(1u, std::thread::hardware_concurrency());
  const int team_size = std::min(threads, processors) / batch;
  threads = std::max(1, std::min(threads, batch));
  std::vector<std::exception_ptr> errors(threads);
  const auto share = [&](int thread) {
    try {
      std::vector<int> sentences;  // every threads-th, so that sorted batches divide evenly
      for (int i = thread; i < batch; i += threads) sentences.push_back(i);
      Workspace& workspace = program.workspace(thread);
      std::optional<Team> team;
      if (team_size > 1) team.emplace(team_size);
      workspace.team = team ? &*team : nullptr;
      pack(program, workspace, src_tokens, width, sentences);
      work(thread, workspace, std::move(sentences));
    } catch (...) {
      errors[thread] = std::current_exception();
    }
  };
  program.workspace(threads - 1);  // before the threads, which must not grow the list
  std::vector<std::thread> others;
  try {
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(share, thread);
  } catch (...) {  // no thread could be started
    errors[0] = std::current_exception();
  }
  if (!errors[0]) share(0);
  for (std::thread& other : others) other.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace lite::native
