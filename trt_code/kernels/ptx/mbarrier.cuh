// Barriers in shared memory that count arrivals and bytes (Hopper, sm_90).
#pragma once

#include <cstdint>

namespace lite {

__device__ __forceinline__ void initBarrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/// Call this after the last initBarrier and before a clusterSync. Other blocks may then use the
/// barriers.
__device__ __forceinline__ void publishBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/// Arrives at a barrier of any block of the cluster, after reading the data that the barrier
/// guards. Does not wait for this thread's writes to global memory.
__device__ __forceinline__ void arriveRemote(uint32_t remoteBarrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(remoteBarrier) : "memory");
}

/// Arrives, and makes the phase wait for `bytes` more bytes.
__device__ __forceinline__ void arriveExpecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

/// Waits for the end of a phase, and makes the bulk copies and remote stores that it counted
/// visible. This is an acquire for this block only: an acquire for the cluster also empties the
/// cache of global memory.
__device__ __forceinline__ void waitFor(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

/// A position in a ring of stages, and the parity of its barriers' phase in this round.
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace lite
