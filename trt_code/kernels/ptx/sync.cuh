// Synchronisation with the previous kernel on the stream, some warps of a block, or other blocks.
#pragma once

#include <cstdint>

namespace lite {

/// Waits until every earlier kernel of the stream is done and its results are visible.
__device__ __forceinline__ void waitForPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the blocks of the next kernel start as soon as this kernel's blocks leave room.
__device__ __forceinline__ void admitNext() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/// Works as __syncthreads() for `kThreads` threads of a block (whole warps), at one of its named
/// barriers. Barrier 0 belongs to __syncthreads().
template <int kBarrier, int kThreads>
__device__ __forceinline__ void syncThreads() {
  static_assert(kBarrier >= 1 && kBarrier < 16);
  asm volatile("bar.sync %0, %1;" ::"n"(kBarrier), "n"(kThreads) : "memory");
}

/// Changes the number of registers of each thread of this warpgroup. One that wants more waits
/// until other warpgroups of the block have given up as many (sm_90a).
template <int kRegisters>
__device__ __forceinline__ void raiseRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void lowerRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// Adds 1 to a counter in global memory. A thread that sees the new value also sees this thread's
/// earlier writes.
__device__ __forceinline__ void releaseOne(uint32_t* counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}

/// Reads a counter, and makes the writes before its last releaseOne() visible.
__device__ __forceinline__ uint32_t acquire(const uint32_t* counter) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

/// Writes 16 bytes to global memory, visible to all blocks. Each half is written atomically.
__device__ __forceinline__ void storeWords(uint4* to, const uint4& words) {
  asm volatile("st.relaxed.gpu.global.v2.b64 [%0], {%1, %2};" ::"l"(to),
               "l"(uint64_t(words.y) << 32 | words.x), "l"(uint64_t(words.w) << 32 | words.z)
               : "memory");
}

/// Reads 16 bytes of global memory that storeWords() wrote, bypassing the cache of this
/// multiprocessor.
__device__ __forceinline__ uint4 loadWords(const uint4* from) {
  uint64_t low, high;
  asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
               : "=l"(low), "=l"(high)
               : "l"(from)
               : "memory");
  return {uint32_t(low), uint32_t(low >> 32), uint32_t(high), uint32_t(high >> 32)};
}

}  // namespace lite
