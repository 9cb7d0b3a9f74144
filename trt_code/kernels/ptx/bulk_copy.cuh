// Copies by the bulk engine, and the fences before them (Hopper, sm_90). Barriers count the bytes
// of the copies.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace lite {

/// Makes this thread's writes to shared memory visible to the asynchronous proxy: bulk copies and
/// wgmma.
__device__ __forceinline__ void fenceShared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Does the same for global memory, for this thread's writes and for writes of other threads that
/// it has observed.
__device__ __forceinline__ void fenceGlobal() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

/// Copies global memory to this block's shared memory.
__device__ __forceinline__ void bulkLoad(uint32_t to, const void* from, uint32_t bytes,
                                         uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

/// Copies a box of a matrix to this block's shared memory. Elements outside the matrix are zero.
__device__ __forceinline__ void loadBox(uint32_t to, const CUtensorMap* matrix, int column, int row,
                                        uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
      "%3}], [%4];" ::"r"(to),
      "l"(matrix), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

/// Starts to copy a box from this block's shared memory to a matrix. Elements outside the matrix
/// are not written. The copy belongs to this thread's open group.
__device__ __forceinline__ void storeBox(const CUtensorMap* matrix, int column, int row,
                                         uint32_t from) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(matrix),
      "r"(column), "r"(row), "r"(from)
      : "memory");
}

/// Closes the group of this thread's copies to global memory.
__device__ __forceinline__ void commitStores() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/// Waits until this thread's closed groups have read shared memory, or with kWritten until they
/// have written global memory.
template <bool kWritten>
__device__ __forceinline__ void waitForStores() {
  if constexpr (kWritten) {
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  } else {
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
  }
}

/// Prefetches global memory into L2, for a later copy.
__device__ __forceinline__ void bulkPrefetch(const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

/// Copies global memory to the same address in the shared memory of every block whose bit is set in
/// `ranks`. The barrier of each block counts its bytes.
__device__ __forceinline__ void bulkLoadToAll(uint32_t to, const void* from, uint32_t bytes,
                                              uint32_t barrier, uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1], %2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "h"(ranks)
      : "memory");
}

}  // namespace lite
