// Copies by the bulk engine, and the fences before them (Hopper, sm_90). Barriers count their
// bytes.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace lite {

/// Make this thread's writes to shared memory visible to what reads past the usual path: bulk
/// copies and wgmma.
__device__ __forceinline__ void fenceShared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// The same for what it has written to global memory, or has seen that others wrote.
__device__ __forceinline__ void fenceGlobal() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

/// Global to this block's shared memory.
__device__ __forceinline__ void bulkLoad(uint32_t to, const void* from, uint32_t bytes,
                                         uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

/// A box of a matrix to this block's shared memory, zeros where it reaches past the matrix.
__device__ __forceinline__ void loadBox(uint32_t to, const CUtensorMap* matrix, int column, int row,
                                        uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
      "%3}], [%4];" ::"r"(to),
      "l"(matrix), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

/// Global memory to L2, where a later copy finds it.
__device__ __forceinline__ void bulkPrefetch(const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

/// Global to the same place in the shared memory of every block that `ranks` has a bit for; their
/// own barriers count the bytes.
__device__ __forceinline__ void bulkLoadToAll(uint32_t to, const void* from, uint32_t bytes,
                                              uint32_t barrier, uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1], %2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "h"(ranks)
      : "memory");
}

}  // namespace lite
