// Waiting: for the kernel before on the stream, for some warps of a block, for other blocks.
#pragma once

#include <cstdint>

namespace lite {

/// Wait until every earlier kernel of the stream is done and its results can be seen.
__device__ __forceinline__ void waitForPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Let the blocks of the next kernel start as this kernel's blocks leave room.
__device__ __forceinline__ void admitNext() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/// __syncthreads() for `kThreads` threads of a block, whole warps, at one of its named barriers.
/// Barrier 0 is that of __syncthreads().
template <int kBarrier, int kThreads>
__device__ __forceinline__ void syncThreads() {
  static_assert(kBarrier >= 1 && kBarrier < 16);
  asm volatile("bar.sync %0, %1;" ::"n"(kBarrier), "n"(kThreads) : "memory");
}

/// Add 1 to a counter in global memory; who sees it sees what this thread wrote before.
__device__ __forceinline__ void releaseOne(uint32_t* counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}

/// Read a counter, and see what was written before its last releaseOne().
__device__ __forceinline__ uint32_t acquire(const uint32_t* counter) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

/// Write 16 bytes to global memory where all blocks see them, each half at once.
__device__ __forceinline__ void storeWords(uint4* to, const uint4& words) {
  asm volatile("st.relaxed.gpu.global.v2.b64 [%0], {%1, %2};" ::"l"(to),
               "l"(uint64_t(words.y) << 32 | words.x), "l"(uint64_t(words.w) << 32 | words.z)
               : "memory");
}

/// Read 16 bytes of global memory as storeWords() writes them, past the cache of this block.
__device__ __forceinline__ uint4 loadWords(const uint4* from) {
  uint64_t low, high;
  asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
               : "=l"(low), "=l"(high)
               : "l"(from)
               : "memory");
  return {uint32_t(low), uint32_t(low >> 32), uint32_t(high), uint32_t(high >> 32)};
}

}  // namespace lite
