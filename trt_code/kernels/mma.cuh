// Warp-wide 16-bit matrix products (sm_80 and later) as the kernels use them.
#pragma once

#include "common.cuh"

namespace lite {

/// Two neighbouring 16-bit elements, as the matrix instructions take them.
template <typename T>
__device__ __forceinline__ uint32_t loadPair(const T* from) {
  return *reinterpret_cast<const uint32_t*>(from);
}

__device__ __forceinline__ uint32_t packPair(__half a, __half b) {
  return uint32_t(__half_as_ushort(a)) | uint32_t(__half_as_ushort(b)) << 16;
}

__device__ __forceinline__ uint32_t packPair(__nv_bfloat16 a, __nv_bfloat16 b) {
  return uint32_t(__bfloat16_as_ushort(a)) | uint32_t(__bfloat16_as_ushort(b)) << 16;
}

/// c [16, 8] += a [16, 16] * b [16, 8], FP32 sums. Lane l holds, with g = l / 4 and q = l % 4,
/// a: rows g, g+8 x columns 2q, 2q+1 (then the same at columns + 8); b: rows 2q, 2q+1 (then + 8) of
/// column g; c: columns 2q, 2q+1 of row g, then of row g + 8.
template <typename T>
__device__ __forceinline__ void mma16816(float (&c)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]);

template <>
__device__ __forceinline__ void mma16816<__half>(float (&c)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ __forceinline__ void mma16816<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4],
                                                        const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Four 8 x 8 tiles of shared memory; lane l gives the address of row l % 8 of tile l / 8, 16-byte
/// aligned.
template <typename T>
__device__ __forceinline__ void loadTiles(uint32_t (&tiles)[4], const T* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(address));
}

/// Four 8 x 8 tiles of shared memory, transposed on the way; lane l gives the address of row l % 8
/// of tile l / 8, 16-byte aligned.
template <typename T>
__device__ __forceinline__ void loadTransposed(uint32_t (&tiles)[4], const T* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(address));
}

}  // namespace lite
