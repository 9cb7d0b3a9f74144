// What Hopper alone has (sm_90a), as the kernels use it: barriers that count bytes, copies by the
// bulk engine, clusters of blocks, and products of a warpgroup from shared memory.
#pragma once

#include <cuda.h>

#include "common.cuh"

namespace lite {

/// Whether the current device runs code for sm_90a.
inline cudaError_t isHopper(bool* hopper) {
  int major = 0, minor = 0;
  cudaError_t status = deviceAttribute(cudaDevAttrComputeCapabilityMajor, &major);
  if (status == cudaSuccess) status = deviceAttribute(cudaDevAttrComputeCapabilityMinor, &minor);
  *hopper = major == 9 && minor == 0;
  return status;
}

__device__ __forceinline__ uint32_t sharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- clusters -----------------------------------------------------------------------------------

/// The two halves of clusterSync(), for what can be done in between.
__device__ __forceinline__ void clusterArrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void clusterWait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/// Every thread of every block of the cluster must come here.
__device__ __forceinline__ void clusterSync() {
  clusterArrive();
  clusterWait();
}

/// Where an address of this block's shared memory lies in that of block `rank`.
__device__ __forceinline__ uint32_t remoteAddress(uint32_t address, int rank) {
  uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}

// ---- barriers in shared memory ------------------------------------------------------------------

__device__ __forceinline__ void initBarrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/// After the last initBarrier and before a clusterSync: other blocks may then use the barriers.
__device__ __forceinline__ void publishBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/// Arrive at a barrier of any block of the cluster, done with reading what it guards; what this
/// thread wrote to global memory is not waited for.
__device__ __forceinline__ void arriveRemote(uint32_t remoteBarrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(remoteBarrier) : "memory");
}

/// Arrive, and let the phase last until `bytes` more have come in.
__device__ __forceinline__ void arriveExpecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

/// Wait for a phase's end, and see what the bulk copies and remote stores brought that it counted.
/// An acquire for this block alone: one for the cluster empties the cache of global memory too.
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

/// A place in a ring of stages, and the parity of its barriers' phase in this round.
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

// ---- moving data --------------------------------------------------------------------------------

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

/// 16 bytes to another block's shared memory; its barrier counts them.
__device__ __forceinline__ void storeRemote(uint32_t to, const uint4& value, uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(to),
      "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(barrier)
      : "memory");
}

/// 8 bytes to another block's shared memory; its barrier counts them.
__device__ __forceinline__ void storeRemote(uint32_t to, const float2& value, uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(
          to),
      "r"(__float_as_uint(value.x)), "r"(__float_as_uint(value.y)), "r"(barrier)
      : "memory");
}

/// Transpose an 8 x 8 tile of 16-bit elements that a warp holds, a pair a lane.
__device__ __forceinline__ uint32_t transposeTile(uint32_t pair) {
  uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
  return result;
}

/// Write four 8 x 8 tiles, transposed on the way; lane l gives the address of row l % 8 of tile
/// l / 8 in shared memory.
__device__ __forceinline__ void storeTransposed(uint32_t row, const uint32_t (&tiles)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
               "r"(tiles[0]), "r"(tiles[1]), "r"(tiles[2]), "r"(tiles[3])
               : "memory");
}

// ---- products of a warpgroup --------------------------------------------------------------------

/// An operand in shared memory, made of tiles of 8 rows x 16 bytes that are 128 contiguous bytes:
/// neighbours along the rows follow each other, `depthStride` bytes lie between neighbours along
/// the depth.
__device__ __forceinline__ uint64_t operand(uint32_t address, uint32_t depthStride) {
  constexpr uint64_t kRowStride = 128;
  return uint64_t((address & 0x3FFFF) >> 4) | uint64_t(depthStride >> 4) << 16 |
         (kRowStride >> 4) << 32;
}

/// An operand in shared memory as loadBox leaves rows of 128 bytes that it swizzles: eight rows are
/// 1,024 contiguous bytes, at a multiple of as many. A step along the depth is 32 bytes further.
__device__ __forceinline__ uint64_t swizzledOperand(uint32_t address) {
  constexpr uint64_t kRowStride = 1024, kSwizzle128 = 1;
  return uint64_t((address & 0x3FFFF) >> 4) | uint64_t(1) << 16 | (kRowStride >> 4) << 32 |
         kSwizzle128 << 62;
}

/// An operand so many bytes further, a multiple of 16: the lower half holds the address and has
/// room.
__device__ __forceinline__ uint64_t further(uint64_t operand, uint32_t bytes) {
  return (operand & 0xFFFFFFFF00000000) | (uint32_t(operand) + (bytes >> 4));
}

template <int kRegisters>
__device__ __forceinline__ void pinRegisters(float (&sums)[kRegisters]) {
#pragma unroll
  for (int i = 0; i < kRegisters; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

/// Before the first product of a group that adds to registers which were written since.
__device__ __forceinline__ void beginProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void endProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// Wait until at most `kLeft` groups of products are under way.
template <int kLeft>
__device__ __forceinline__ void awaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}

#define LITE_SUMS_8(s, i)                                                                     \
  "+f"(s[i]), "+f"(s[i + 1]), "+f"(s[i + 2]), "+f"(s[i + 3]), "+f"(s[i + 4]), "+f"(s[i + 5]), \
      "+f"(s[i + 6]), "+f"(s[i + 7])

/// sums [64, kColumns] += a [64, depth] * b [kColumns, depth]^T, started and not awaited. The depth
/// is 32 bytes of a row: 16 elements of 16 bits, or 8 floats, of which TF32's bits count. Warp w of
/// the four and lane l hold rows 16 w + l / 4 and 8 more, of each columns 8 j + 2 (l % 4) and the
/// next: sums[4 j + 2 * (lower row) + column].
template <typename T, int kColumns>
__device__ __forceinline__ void warpgroupProduct(float (&sums)[kColumns / 2], uint64_t a,
                                                 uint64_t b);

#define LITE_WARPGROUP_PRODUCTS(type, depth, names, last)                                      \
  template <>                                                                                  \
  __device__ __forceinline__ void warpgroupProduct<type, 16>(float (&s)[8], uint64_t a,        \
                                                             uint64_t b) {                     \
    asm volatile("wgmma.mma_async.sync.aligned.m64n16" depth ".f32." names                     \
                 " {%0,%1,%2,%3,%4,%5,%6,%7}, %8, %9, 1, 1, 1" last ";"                        \
                 : LITE_SUMS_8(s, 0)                                                           \
                 : "l"(a), "l"(b));                                                            \
  }                                                                                            \
  template <>                                                                                  \
  __device__ __forceinline__ void warpgroupProduct<type, 32>(float (&s)[16], uint64_t a,       \
                                                             uint64_t b) {                     \
    asm volatile(                                                                              \
        "wgmma.mma_async.sync.aligned.m64n32" depth ".f32." names                              \
        " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, 1, 1, 1" last ";" \
        : LITE_SUMS_8(s, 0), LITE_SUMS_8(s, 8)                                                 \
        : "l"(a), "l"(b));                                                                     \
  }                                                                                            \
  template <>                                                                                  \
  __device__ __forceinline__ void warpgroupProduct<type, 64>(float (&s)[32], uint64_t a,       \
                                                             uint64_t b) {                     \
    asm volatile(                                                                              \
        "wgmma.mma_async.sync.aligned.m64n64" depth ".f32." names                              \
        " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,"                     \
        "%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, 1, 1, 1" last ";" \
        : LITE_SUMS_8(s, 0), LITE_SUMS_8(s, 8), LITE_SUMS_8(s, 16), LITE_SUMS_8(s, 24)         \
        : "l"(a), "l"(b));                                                                     \
  }

LITE_WARPGROUP_PRODUCTS(__half, "k16", "f16.f16", ", 0, 0")
LITE_WARPGROUP_PRODUCTS(__nv_bfloat16, "k16", "bf16.bf16", ", 0, 0")
LITE_WARPGROUP_PRODUCTS(float, "k8", "tf32.tf32", "")
#undef LITE_WARPGROUP_PRODUCTS

template <>
__device__ __forceinline__ void warpgroupProduct<float, 128>(float (&s)[64], uint64_t a,
                                                             uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k8.f32.tf32.tf32 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,"
      "%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,"
      "%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,"
      "%63}, %64, %65, 1, 1, 1;"
      : LITE_SUMS_8(s, 0), LITE_SUMS_8(s, 8), LITE_SUMS_8(s, 16), LITE_SUMS_8(s, 24),
        LITE_SUMS_8(s, 32), LITE_SUMS_8(s, 40), LITE_SUMS_8(s, 48), LITE_SUMS_8(s, 56)
      : "l"(a), "l"(b));
}

#undef LITE_SUMS_8

}  // namespace lite
