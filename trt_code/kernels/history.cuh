// Where a hypothesis of a search has its past.
//
// Every step writes a hypothesis' keys, values and convolution inputs to its own row. When the
// search continues another hypothesis in that row, nothing is moved. A table, `ancestors` [2, rows,
// capacity], says for every earlier position in which row the hypothesis' past is. Even positions
// write its first half and read the second, odd ones the other way round (embed_step.cu).
#pragma once

#include <cstdint>

namespace lite {

struct History {
  int row, position;
  int64_t capacity;
  const int32_t* rows;  // of the earlier positions; nullptr if all are in this row

  __device__ History(int row, int allRows, int capacity, const int32_t* ancestors,
                     const int64_t* step)
      : row(row),
        position(int(min(max(*step, int64_t{0}), int64_t{capacity} - 1))),
        capacity(capacity),
        rows(nullptr) {
    if (ancestors != nullptr) {
      rows = ancestors + (int64_t(position & 1) * allRows + row) * capacity;
    }
  }

  /// Returns the row of position j.
  __device__ int rowOf(int j) const { return rows == nullptr || j == position ? row : rows[j]; }

  /// Returns the index of position j in a tensor [rows, capacity, ..].
  __device__ int64_t at(int j) const { return rowOf(j) * capacity + j; }

  /// Returns the index of the newest position, which this step writes.
  __device__ int64_t now() const { return row * capacity + position; }
};

}  // namespace lite
