// The numbers of the special tokens, as in train_model/data/dictionary.py.
#pragma once

#include <cstdint>

namespace lite {

constexpr int64_t kBos = 0, kPad = 1, kEos = 2, kUnk = 3;

/// The row of a position table for the first token of a sentence. Padding has the row kPad.
constexpr int kFirstPosition = int(kPad) + 1;

}  // namespace lite
