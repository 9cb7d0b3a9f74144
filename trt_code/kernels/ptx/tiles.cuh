// Moves 8 x 8 tiles of 16-bit elements between shared memory and the registers of a warp.
#pragma once

#include <cstdint>

namespace lite {

/// Loads four tiles. Lane l passes the address of row l % 8 of tile l / 8, 16-byte aligned.
__device__ __forceinline__ void loadTiles(uint32_t (&tiles)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(row));
}

/// Loads four tiles in the same way, and transposes each of them.
__device__ __forceinline__ void loadTransposed(uint32_t (&tiles)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(row));
}

/// Stores four tiles, each transposed. Addresses are passed as for loadTiles() (sm_90 and later).
__device__ __forceinline__ void storeTransposed(uint32_t row, const uint32_t (&tiles)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
               "r"(tiles[0]), "r"(tiles[1]), "r"(tiles[2]), "r"(tiles[3])
               : "memory");
}

/// Transposes a tile that a warp holds with two neighbouring elements per lane.
__device__ __forceinline__ uint32_t transposeTile(uint32_t pair) {
  uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
  return result;
}

}  // namespace lite
