#include "threads.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <optional>
#include <thread>

#include "../kernels/special_tokens.h"

namespace lite::native {
namespace {

constexpr int kLeastTokens = 64;  // of a group: fewer rows use the weights less well

// Begins the source's stage with these sentences of src_tokens [batch, width].
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
    const int last = static_cast<int>(tokens.size());
    spans.push_back({begin, last, before, width - before - (last - begin)});
    if (spans.back().size() > program.max_source)
      throw InputError("a source of " + std::to_string(spans.back().size()) +
                       " tokens is longer than the " + std::to_string(program.max_source) +
                       " positions of the model");
  }
  workspace.begin_source(std::move(tokens), std::move(spans));
}

// Divides a batch into groups of sentences, which threads take one after the other. The groups
// become smaller, so that the threads end at about the same time, also if one of them is slower.
// A batch that is too small for this is divided into `parts` equal groups.
std::vector<std::vector<int>> divide(const std::int64_t* src_tokens, int batch, int width,
                                     int parts, int most_tokens) {
  std::vector<std::vector<int>> groups;
  const std::int64_t* end = src_tokens + static_cast<std::size_t>(batch) * width;
  std::int64_t left = end - src_tokens - std::count(src_tokens, end, kPad);
  if (most_tokens == kWhole || left <= 2 * parts * kLeastTokens) {
    groups.resize(parts);  // every parts-th sentence, so that sorted batches divide evenly
    for (int i = 0; i < batch; ++i) groups[i % parts].push_back(i);
    return groups;
  }
  for (int i = 0; i < batch;) {
    std::int64_t wanted = most_tokens;
    if (parts > 1) wanted = std::clamp<std::int64_t>(left / (2 * parts), kLeastTokens, wanted);
    groups.emplace_back();
    for (std::int64_t tokens = 0; i < batch && tokens < wanted; ++i) {
      const std::int64_t* row = src_tokens + static_cast<std::size_t>(i) * width;
      const std::int64_t own = width - std::count(row, row + width, kPad);
      groups.back().push_back(i);
      tokens += own;
      left -= own;
    }
  }
  return groups;
}

// Threads of a budget, until they are given back or this object ends.
class Taken {
 public:
  Taken(Budget& budget, int most, int wanted)
      : count(budget.take(most, wanted)), budget_(budget), left_(count) {}
  ~Taken() { budget_.give_back(left_); }
  Taken(const Taken&) = delete;
  Taken& operator=(const Taken&) = delete;

  void give_back(int threads) {
    left_ -= threads;
    budget_.give_back(threads);
  }

  const int count;

 private:
  Budget& budget_;
  std::atomic<int> left_;
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
                const std::function<void(int, Workspace&, const std::vector<int>&)>& work) {
  const int most = std::max(1, threads);
  Taken taken(program.budget, most, std::min(most, useful_threads(program, batch, width)));
  const int parts = std::min(taken.count, batch), each = taken.count / parts;
  std::vector<Program::Lent> workspaces;
  for (int part = 0; part < parts; ++part) workspaces.push_back(program.workspace());
  const auto groups = divide(src_tokens, batch, width, parts, most_tokens);
  std::atomic<std::size_t> next{0};  // group
  std::vector<std::exception_ptr> errors(parts);
  const auto run = [&](int part) {
    try {
      Workspace& workspace = *workspaces[part];
      std::optional<Team> team;
      if (each > 1) team.emplace(each);
      workspace.team = team ? &*team : nullptr;
      for (std::size_t group; (group = next++) < groups.size();) {
        pack(program, workspace, src_tokens, width, groups[group]);
        work(part, workspace, groups[group]);
      }
    } catch (...) {
      errors[part] = std::current_exception();
    }
    workspaces[part].reset();  // for the call that gets this thread while others of this one work
    taken.give_back(each);
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
