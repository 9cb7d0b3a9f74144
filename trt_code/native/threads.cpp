#include "threads.h"

#include <algorithm>
#include <exception>
#include <optional>
#include <thread>

#include "../kernels/special_tokens.h"

namespace lite::native {
namespace {

// Begins the source's stage with the first of the sentences [sentence, end) that have at least
// `most` tokens together, or with all. Returns the next one.
const int* pack(const Program& program, Workspace& workspace, const std::int64_t* src_tokens,
                int width, int most, const int* sentence, const int* end) {
  std::vector<std::int32_t> tokens;
  std::vector<Span> spans;
  for (; sentence != end && static_cast<int>(tokens.size()) < most; ++sentence) {
    const int begin = static_cast<int>(tokens.size());
    int before = 0;
    const std::int64_t* row = src_tokens + static_cast<std::size_t>(*sentence) * width;
    for (int i = 0; i < width; ++i) {
      if (row[i] < 0 || row[i] >= program.source_vocab)
        throw InputError("token " + std::to_string(row[i]) + " is not in a vocabulary of " +
                         std::to_string(program.source_vocab));
      if (row[i] != kPad)
        tokens.push_back(static_cast<std::int32_t>(row[i]));
      else if (static_cast<int>(tokens.size()) == begin)
        ++before;
    }
    const int last = static_cast<int>(tokens.size());
    spans.push_back({begin, last, before, width - before - (last - begin)});
    if (spans.back().size() > program.max_source)
      throw InputError("a source of " + std::to_string(spans.back().size()) +
                       " tokens is longer than the " + std::to_string(program.max_source) +
                       " positions of the model");
  }
  workspace.begin_source(std::move(tokens), std::move(spans));
  return sentence;
}

// Threads of a budget, for as long as this object lives.
struct Taken {
  Taken(Budget& budget, int most, int wanted) : budget(budget), count(budget.take(most, wanted)) {}
  ~Taken() { budget.give_back(count); }
  Taken(const Taken&) = delete;
  Taken& operator=(const Taken&) = delete;

  Budget& budget;
  const int count;
};

// The threads that a batch can use: one for each sentence, and more to share large products. More
// than there are processors would wait for each other.
int useful_threads(const Program& program, int batch, int width) {
  if (program.most_operations * width < kLeastShared) return batch;
  return std::max<int>(batch, std::thread::hardware_concurrency());
}

}  // namespace

void on_threads(Program& program, const std::int64_t* src_tokens, int batch, int width, int threads,
                int most_tokens,
                const std::function<void(int, Workspace&, std::vector<int>)>& work) {
  const int most = std::max(1, threads);
  const Taken taken(program.budget, most, std::min(most, useful_threads(program, batch, width)));
  const int parts = std::min(taken.count, batch);
  std::vector<Program::Lent> workspaces;
  for (int part = 0; part < parts; ++part) workspaces.push_back(program.workspace());
  std::vector<std::exception_ptr> errors(parts);
  const auto run = [&](int part) {
    try {
      std::vector<int> sentences;  // every parts-th, so that sorted batches divide evenly
      for (int i = part; i < batch; i += parts) sentences.push_back(i);
      Workspace& workspace = *workspaces[part];
      std::optional<Team> team;
      if (taken.count / parts > 1) team.emplace(taken.count / parts);
      workspace.team = team ? &*team : nullptr;
      const int *next = sentences.data(), *end = next + sentences.size();
      while (next != end) {
        const int* begin = next;
        next = pack(program, workspace, src_tokens, width, most_tokens, begin, end);
        work(part, workspace, {begin, next});
      }
    } catch (...) {
      errors[part] = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  try {
    for (int part = 1; part < parts; ++part) others.emplace_back(run, part);
  } catch (...) {  // no thread could be started
    errors[0] = std::current_exception();
  }
  if (!errors[0]) run(0);
  for (std::thread& other : others) other.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace lite::native
