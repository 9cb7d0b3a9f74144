// Asynchronous copies of 16 bytes from global to shared memory (sm_80 and later).
#pragma once

#include <cstdint>

namespace lite {

/// Copies 16 bytes to an address in shared memory.
__device__ __forceinline__ void copyAsync(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

/// Copies 16 bytes if `inside`, otherwise writes zeros.
__device__ __forceinline__ void copyAsync(uint32_t to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(inside ? 16 : 0)
               : "memory");
}

/// Closes a group with the copies that this thread has started since the previous group.
__device__ __forceinline__ void commitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Waits for all copies of this thread except those of the kPending youngest groups.
template <int kPending>
__device__ __forceinline__ void waitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// Waits for all copies of this thread.
__device__ __forceinline__ void waitForAllCopies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

}  // namespace lite
