// Streams the weights through a ring of stages in shared memory, and multiplies with them.
#pragma once

#include "../ptx/bulk_copy.cuh"
#include "../ptx/mbarrier.cuh"
#include "../ptx/wgmma.cuh"
#include "layout.cuh"

namespace lite::conv_stack {

template <typename T, int kTokens>
struct WeightStream {
  RingPlace place;

  /// Fetches the weights of all layers. Called by one thread. The loop is kept short, since it
  /// limits how fast weights arrive. All groups read the same weights, so each group prefetches a
  /// share of the next layer's weights into L2 for all groups.
  __device__ void produce(const Block& block) {
    const ConvStackParams& p = block.p;
    const int groups = gridDim.x / p.heads;
    const size_t blockBytes = size_t(block.sizes.layerStages) * kStageBytes;
    const size_t layerBytes = p.heads * blockBytes;
    const auto* from = static_cast<const unsigned char*>(block.t.weights) + block.rank * blockBytes;
    int turn = block.cluster;
    bool filled = false;  // whether the ring has been filled once
    for (int layer = 0; layer < p.layers; ++layer) {
      for (int stage = 0; stage < block.sizes.layerStages; ++stage) {
        if (filled) waitFor(block.empty(place.stage), place.parity ^ 1);
        arriveExpecting(block.full(place.stage), kStageBytes);
        bulkLoad(block.address(block.at.ring + place.stage * kStageBytes), from, kStageBytes,
                 block.full(place.stage));
        if (turn == 0 && layer + 1 < p.layers) bulkPrefetch(from + layerBytes, kStageBytes);
        if (++turn == groups) turn = 0;
        from += kStageBytes;
        place.advance(block.stages);
        filled |= place.stage == 0;
      }
      from += layerBytes - blockBytes;
    }
  }

  /// Marks a stage of the ring as read by this warp.
  __device__ static void release(const Block& block, int stage) {
    __syncwarp();
    if (block.lane == 0) arrive(block.empty(stage));
  }
  __device__ void advance(const Block& block) { place.advance(block.stages); }

  /// Computes sums [64, kColumns] = the next stages of weights * columns of a buffer with a depth
  /// of 64 * steps. With kSame, both warpgroups multiply the same 64 outputs and a stage is 128
  /// deep. Otherwise each warpgroup has its own outputs and a stage is 64 deep. With kShared, each
  /// block sent 64 of the depth, and a step waits only for its own part.
  template <int kColumns, bool kSame, bool kShared = true>
  __device__ void multiply(const Block& block, const Phases& phases, float (&sums)[kColumns / 2],
                           int buffer, int column, int steps) {
    constexpr int kTiles = kSame ? 2 : 1;  // tiles of a stage that this warpgroup takes
    const uint64_t columns =
        operand(block.address(block.at.buffers[buffer]) + column * 16, kChunkBytes<kTokens>);
    const uint64_t weights =
        operand(block.address(block.at.ring) + (kSame ? 0 : block.warpgroup * kTileBytes), 1024);
    int last = 0;
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) sums[i] = 0.0f;
    for (int step = 0; step < steps; step += kTiles) {
      if constexpr (kShared) {
#pragma unroll
        for (int i = 0; i < kTiles; ++i) phases.awaitSlice(block, buffer, step + i);
      }
      waitFor(block.full(place.stage), place.parity);
      const uint64_t weight = further(weights, place.stage * kStageBytes);
      const uint64_t here = further(columns, step * 8 * kChunkBytes<kTokens>);
      pinRegisters(sums);
      beginProducts();
#pragma unroll
      for (int k = 0; k < 4 * kTiles; ++k) {
        warpgroupProduct<T, kColumns>(sums, further(weight, k * 2048),
                                      further(here, k * 2 * kChunkBytes<kTokens>));
      }
      endProducts();
      pinRegisters(sums);
      if (step > 0) {
        awaitProducts<1>();
        release(block, last);
      }
      last = place.stage;
      advance(block);
    }
    awaitProducts<0>();
    pinRegisters(sums);
    release(block, last);
  }
};

}  // namespace lite::conv_stack
