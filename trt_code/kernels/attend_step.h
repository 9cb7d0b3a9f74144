// Attention in one step of a search: the newest position of every hypothesis attends to its own
// past, or to the source. The queries are scaled already.
#pragma once

#include "common.h"

namespace lite {

/// The widest past or source that fits into a block's shared memory on every GPU.
constexpr int32_t kMostAttended = 4096;

/// qkv are rows of [query, key, value], 3 x channels, `stride` elements apart; out are rows of
/// channels, `outStride` elements apart. keys and values are [rows, capacity, channels].
struct AttendPastParams {
  int32_t rows, capacity, channels, heads;
  int64_t stride, outStride;
  DataType dtype;
};

/// query and out are [batch, beam, channels]; keys and values are rows of channels, `stride`
/// elements apart, `source` of them per sentence.
struct AttendSourceParams {
  int32_t batch, beam, source, channels, heads;
  int64_t stride;
  DataType dtype;
};

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
const char* check(const AttendPastParams& params);
const char* check(const AttendSourceParams& params);

/// Writes key and value of every row to position `*position` of keys and values, then attends to
/// the positions up to it. ancestors [2, rows, capacity] says in which row a hypothesis' earlier
/// positions are (see embed_step.h); nullptr if all are in its own row. A position outside the
/// capacity counts as the nearest one inside.
cudaError_t attendPast(const AttendPastParams& params, const void* qkv, void* keys, void* values,
                       const int32_t* ancestors, const int64_t* position, void* out,
                       cudaStream_t stream);

/// Attends to the positions of the source where mask [batch, source] is false. If it is true
/// everywhere, all positions have the same weight.
cudaError_t attendSource(const AttendSourceParams& params, const void* query, const void* keys,
                         const void* values, const bool* mask, void* out, cudaStream_t stream);

}  // namespace lite
