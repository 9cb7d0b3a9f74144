// Clusters of blocks, and stores to the shared memory of other blocks in the cluster (Hopper,
// sm_90).
#pragma once

#include <cstdint>

namespace lite {

/// The two halves of clusterSync(), for work in between.
__device__ __forceinline__ void clusterArrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void clusterWait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/// Synchronises the cluster. Every thread of every block must call it.
__device__ __forceinline__ void clusterSync() {
  clusterArrive();
  clusterWait();
}

/// Returns the address in block `rank` that corresponds to an address of this block's shared
/// memory.
__device__ __forceinline__ uint32_t remoteAddress(uint32_t address, int rank) {
  uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}

/// Stores 16 bytes to another block's shared memory. That block's barrier counts them.
__device__ __forceinline__ void storeRemote(uint32_t to, const uint4& value, uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(to),
      "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(barrier)
      : "memory");
}

/// Stores 8 bytes to another block's shared memory. That block's barrier counts them.
__device__ __forceinline__ void storeRemote(uint32_t to, const float2& value, uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(
          to),
      "r"(__float_as_uint(value.x)), "r"(__float_as_uint(value.y)), "r"(barrier)
      : "memory");
}

/// Stores 8 bytes to another block's shared memory. A clusterSync makes them visible there.
__device__ __forceinline__ void storeRemote(uint32_t to, uint32_t first, uint32_t second) {
  asm volatile("st.shared::cluster.v2.b32 [%0], {%1, %2};" ::"r"(to), "r"(first), "r"(second)
               : "memory");
}

}  // namespace lite
