#include "program.h"

#include <algorithm>

#include "vector.h"

namespace lite::native {
Workspace::Workspace(const std::vector<Register>& registers)
    : registers_(registers), memory_(registers.size()) {}

void Workspace::begin_source(std::vector<std::int32_t> source_tokens, std::vector<Span> sentences) {
  stage = Stage::kSource;
  step = 0;
  tokens = std::move(source_tokens);
  rows = static_cast<int>(tokens.size());
  source = spans = std::move(sentences);
  positions.resize(rows);
  key_begin_.assign(1, 0);
  for (const Span& span : source) {
    for (int r = span.begin; r < span.end; ++r) positions[r] = r - span.begin;
    key_begin_.push_back(key_begin_.back() + padded(span.size()));
  }
  for (std::size_t i = 0; i < registers_.size(); ++i) {
    const Register& reg = registers_[i];
    if (reg.stage != Stage::kSource) continue;
    const int needed = reg.kind == Kind::kKeys ? key_begin_.back() : rows;
    const std::size_t floats = static_cast<std::size_t>(needed) * reg.columns;
    if (memory_[i].rows.size() < floats) memory_[i].rows.resize(floats);
  }
}

void Workspace::begin_target(int target_rows) {
  stage = Stage::kTarget;
  rows = target_rows;
  for (std::size_t i = 0; i < registers_.size(); ++i) {
    const Register& reg = registers_[i];
    if (reg.stage != Stage::kTarget) continue;
    Memory& memory = memory_[i];
    if (reg.kind == Kind::kHistory && memory.blocks.size() <= static_cast<std::size_t>(step))
      memory.blocks.resize(step + 1);
    std::vector<float>& floats = reg.kind == Kind::kHistory ? memory.blocks[step] : memory.rows;
    const std::size_t needed = static_cast<std::size_t>(rows) * reg.columns;
    if (floats.size() < needed) floats.resize(needed);
  }
}

View Workspace::view(int reg, int column) {
  Memory& memory = memory_[reg];
  float* data =
      registers_[reg].kind == Kind::kHistory ? memory.blocks[step].data() : memory.rows.data();
  return {data + column, registers_[reg].columns};
}

Past Workspace::past(int reg) const {
  const Memory& memory = memory_[reg];
  memory.pointers.clear();
  for (int t = 0; t <= step; ++t) memory.pointers.push_back(memory.blocks[t].data());
  return {memory.pointers.data(), registers_[reg].columns, ancestors.data(), ancestor_stride,
          step + 1};
}

float* Workspace::keys(int reg, int number) {
  return memory_[reg].rows.data() +
         static_cast<std::size_t>(key_begin_[number]) * registers_[reg].columns;
}

int Workspace::key_stride(int number) const { return key_begin_[number + 1] - key_begin_[number]; }

float* Workspace::scratch(std::size_t floats) {
  if (scratch_.size() < floats) scratch_.resize(floats);
  return scratch_.data();
}

int Program::add_register(Stage stage, Kind kind, int columns) {
  if (columns < 1 || columns > kMostColumns) throw InputError("a register has 1 to 2^24 columns");
  if (ran_) throw InputError("the network has run already");
  registers_.push_back({stage, kind, columns});
  return static_cast<int>(registers_.size()) - 1;
}

void Program::run(Workspace& workspace) const {
  for (const Operator& op : stages_[static_cast<int>(workspace.stage)]) op(workspace);
}

void Program::need(int reg, Stage stage, Kind kind, int column, int width) const {
  if (reg < 0 || reg >= static_cast<int>(registers_.size()))
    throw InputError("there is no such register");
  const Register& found = registers_[reg];
  if (found.stage != stage || found.kind != kind || column < 0 || width < 1 ||
      column > found.columns - width)
    throw InputError("an operator and its register do not fit each other");
}

Program::Lent Program::workspace() {
  std::unique_ptr<Workspace> found;
  const std::lock_guard lock(mutex_);
  ran_ = true;
  if (idle_.empty()) {
    found = std::make_unique<Workspace>(registers_);
  } else {
    found = std::move(idle_.back());
    idle_.pop_back();
  }
  return Lent(found.release(), [this](Workspace* workspace) {
    const std::lock_guard lock(mutex_);
    idle_.emplace_back(workspace);
  });
}

}  // namespace lite::native
