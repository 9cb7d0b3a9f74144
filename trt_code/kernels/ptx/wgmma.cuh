// Matrix products of a warpgroup from shared memory (sm_90a).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

namespace lite {

/// Describes an operand in shared memory made of tiles of 8 rows x 16 bytes, each in 128 contiguous
/// bytes. Neighbouring tiles along the rows are contiguous. Neighbouring tiles along the depth lie
/// `depthStride` bytes apart.
__device__ __forceinline__ uint64_t operand(uint32_t address, uint32_t depthStride) {
  constexpr uint64_t kRowStride = 128;
  return uint64_t((address & 0x3FFFF) >> 4) | uint64_t(depthStride >> 4) << 16 |
         (kRowStride >> 4) << 32;
}

/// Describes an operand in shared memory as loadBox writes it, in swizzled rows of 128 bytes. Eight
/// rows are 1,024 contiguous bytes, aligned to 1,024 bytes. One step along the depth is 32 bytes.
__device__ __forceinline__ uint64_t swizzledOperand(uint32_t address) {
  constexpr uint64_t kRowStride = 1024, kSwizzle128 = 1;
  return uint64_t((address & 0x3FFFF) >> 4) | uint64_t(1) << 16 | (kRowStride >> 4) << 32 |
         kSwizzle128 << 62;
}

/// Returns the operand moved by `bytes`, a multiple of 16. The lower half holds the address and
/// cannot overflow.
__device__ __forceinline__ uint64_t further(uint64_t operand, uint32_t bytes) {
  return (operand & 0xFFFFFFFF00000000) | (uint32_t(operand) + (bytes >> 4));
}

template <int kRegisters>
__device__ __forceinline__ void pinRegisters(float (&sums)[kRegisters]) {
#pragma unroll
  for (int i = 0; i < kRegisters; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

/// Call this before the first product of a group if the accumulator registers, or those of an
/// operand, have been written since the last group.
__device__ __forceinline__ void beginProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void endProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// Waits until at most `kLeft` groups of products are pending.
template <int kLeft>
__device__ __forceinline__ void awaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}

#define LITE_SUMS_8(s, i)                                                                     \
  "+f"(s[i]), "+f"(s[i + 1]), "+f"(s[i + 2]), "+f"(s[i + 3]), "+f"(s[i + 4]), "+f"(s[i + 5]), \
      "+f"(s[i + 6]), "+f"(s[i + 7])

/// Starts sums [64, kColumns] += a [64, depth] * b [kColumns, depth]^T without waiting for the
/// result. The depth is 32 bytes of a row: 16 elements of 16 bits, or 8 floats, which are read as
/// TF32. Warp w of the four and lane l hold rows 16 w + l / 4 and that + 8, and of each the columns
/// 8 j + 2 (l % 4) and the next one: sums[4 j + 2 * (lower row) + column].
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

/// The same for tiles of 256 columns, of 16 bits or of e4m3 (32 elements of depth).
#define LITE_WIDE_PRODUCT(type, depth, names, last)                                                \
  template <>                                                                                      \
  __device__ __forceinline__ void warpgroupProduct<type, 256>(float (&s)[128], uint64_t a,         \
                                                              uint64_t b) {                        \
    asm volatile("wgmma.mma_async.sync.aligned.m64n256" depth ".f32." names                        \
                 " {"                                                                              \
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                          \
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"                \
                 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"                \
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"                \
                 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"                \
                 "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"                \
                 "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,"    \
                 "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127" \
                 "}, %128, %129, 1, 1, 1" last ";"                                                 \
                 : LITE_SUMS_8(s, 0), LITE_SUMS_8(s, 8), LITE_SUMS_8(s, 16), LITE_SUMS_8(s, 24),   \
                   LITE_SUMS_8(s, 32), LITE_SUMS_8(s, 40), LITE_SUMS_8(s, 48), LITE_SUMS_8(s, 56), \
                   LITE_SUMS_8(s, 64), LITE_SUMS_8(s, 72), LITE_SUMS_8(s, 80), LITE_SUMS_8(s, 88), \
                   LITE_SUMS_8(s, 96), LITE_SUMS_8(s, 104), LITE_SUMS_8(s, 112),                   \
                   LITE_SUMS_8(s, 120)                                                             \
                 : "l"(a), "l"(b));                                                                \
  }

LITE_WIDE_PRODUCT(__half, "k16", "f16.f16", ", 0, 0")
LITE_WIDE_PRODUCT(__nv_bfloat16, "k16", "bf16.bf16", ", 0, 0")
LITE_WIDE_PRODUCT(__nv_fp8_e4m3, "k32", "e4m3.e4m3", "")
#undef LITE_WIDE_PRODUCT

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

/// Does the same with four TF32 numbers of `a` in registers: with g = l / 4 and q = l % 4, lane l
/// holds column q of rows 16 w + g and that + 8, then column q + 4. Without kAdd, earlier sums are
/// ignored.
template <int kColumns, bool kAdd>
__device__ __forceinline__ void warpgroupProduct(float (&s)[kColumns / 2], const float* a,
                                                 uint64_t b) {
  static_assert(kColumns == 32 || kColumns == 64 || kColumns == 128);
  if constexpr (kColumns == 32) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k8.f32.tf32.tf32 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, "
        "{%16,%17,%18,%19}, %20, %21, 1, 1;"
        : LITE_SUMS_8(s, 0), LITE_SUMS_8(s, 8)
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
          "r"(__float_as_uint(a[3])), "l"(b), "n"(int(kAdd)));
  } else if constexpr (kColumns == 64) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k8.f32.tf32.tf32 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,"
        "%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
        "{%32,%33,%34,%35}, %36, %37, 1, 1;"
        : LITE_SUMS_8(s, 0), LITE_SUMS_8(s, 8), LITE_SUMS_8(s, 16), LITE_SUMS_8(s, 24)
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
          "r"(__float_as_uint(a[3])), "l"(b), "n"(int(kAdd)));
  } else {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k8.f32.tf32.tf32 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,"
        "%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,"
        "%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
        "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,"
        "%63}, {%64,%65,%66,%67}, %68, %69, 1, 1;"
        : LITE_SUMS_8(s, 0), LITE_SUMS_8(s, 8), LITE_SUMS_8(s, 16), LITE_SUMS_8(s, 24),
          LITE_SUMS_8(s, 32), LITE_SUMS_8(s, 40), LITE_SUMS_8(s, 48), LITE_SUMS_8(s, 56)
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
          "r"(__float_as_uint(a[3])), "l"(b), "n"(int(kAdd)));
  }
}

#undef LITE_SUMS_8

}  // namespace lite
