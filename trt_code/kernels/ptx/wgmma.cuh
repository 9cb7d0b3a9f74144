// Matrix products of a warpgroup from shared memory (sm_90a).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace lite {

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
