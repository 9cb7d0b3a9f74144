// A network as a list of operators on registers, and the memory in which one thread runs it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "budget.h"
#include "operators.h"
#include "team.h"

namespace lite::native {

// The message is for the user: what is wrong with the input.
struct InputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Stage { kSource, kTarget };

enum class Kind {
  kRows,     // one row per token of the stage
  kHistory,  // a block of such rows per step of a search
  kKeys,     // keys of the source, transposed per sentence: see transpose_keys
};

constexpr int kMostColumns = 1 << 24;

struct Register {
  Stage stage;
  Kind kind;
  int columns;
};

// A column of a register, and the floats between its rows.
struct View {
  float* data;
  int stride;

  float* row(std::int64_t r) const { return data + r * stride; }
};

// What the operators of a stage read and write, for the sentences of one thread.
class Workspace {
 public:
  explicit Workspace(const std::vector<Register>& registers);

  // Begins the source's stage: the sentences' tokens one after the other.
  void begin_source(std::vector<std::int32_t> tokens, std::vector<Span> sentences);
  // Begins a target's stage of `rows` rows, each of which reads the source of a sentence.
  void begin_target(int rows);

  View view(int reg, int column = 0);
  // The blocks of a history, the current step's included.
  Past past(int reg) const;
  // The keys of a sentence, and the floats between their rows.
  float* keys(int reg, int sentence);
  int key_stride(int sentence) const;
  float* scratch(std::size_t floats);

  Stage stage = Stage::kSource;
  int rows = 0;                         // of the stage
  std::vector<std::int32_t> tokens;     // of the stage's rows
  std::vector<std::int32_t> positions;  // of the stage's rows, from 0
  std::vector<Span> source;             // the source rows of each sentence
  std::vector<Span> spans;              // sequences of the stage; not used in a search
  std::vector<std::int32_t> sentence;   // of each target row
  std::vector<std::int32_t> ancestors;  // [rows, ancestor_stride], see Past
  int ancestor_stride = 0, step = 0;    // of a search
  std::vector<int> lengths;             // predicted target lengths of the sentences
  std::vector<std::int32_t> chosen;     // the chosen token of each target row, and its score
  std::vector<float> scores;
  Team* team = nullptr;  // shares the products; null for this thread alone

 private:
  struct Memory {
    std::vector<float> rows;
    std::vector<std::vector<float>> blocks;
    mutable std::vector<const float*> pointers;
  };
  const std::vector<Register>& registers_;
  std::vector<Memory> memory_;
  std::vector<int> key_begin_;  // columns before each sentence's keys, and their total
  std::vector<float> scratch_;
};

using Operator = std::function<void(Workspace&)>;

// A complete program may run in several threads at the same time, each with its own workspace.
class Program {
 public:
  int add_register(Stage stage, Kind kind, int columns);
  void add(Stage stage, Operator op) { stages_[static_cast<int>(stage)].push_back(std::move(op)); }
  void run(Workspace& workspace) const;
  // A workspace that no other thread uses. It goes back to the program, which keeps its memory for
  // the next run.
  using Lent = std::unique_ptr<Workspace, std::function<void(Workspace*)>>;
  Lent workspace();
  int columns(int reg) const { return registers_.at(reg).columns; }
  bool is_history(int reg) const { return registers_.at(reg).kind == Kind::kHistory; }
  // Throws InputError unless the register is of this stage and kind and has these columns.
  void need(int reg, Stage stage, Kind kind, int column, int width) const;

  int logits = -1;                                 // register of the target's scores, for a search
  bool predicts_lengths = false, chooses = false;  // for a translation in one pass
  int source_vocab = 0, target_vocab = 0;
  int max_source = 0, max_target = 0;  // positions
  double most_operations = 0;          // of a row in the largest product
  Budget budget;                       // of threads

 private:
  std::vector<Register> registers_;
  std::vector<Operator> stages_[2];
  std::mutex mutex_;  // of the two below
  bool ran_ = false;
  std::vector<std::unique_ptr<Workspace>> idle_;
};

}  // namespace lite::native
