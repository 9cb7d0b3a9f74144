// Sizes of conv_stack, where everything lies in shared and scratch memory, and one thread's place.
#pragma once

#include "../common.cuh"
#include "../conv_stack.h"
#include "../ptx/mbarrier.cuh"

namespace lite::conv_stack {

constexpr int kHeadWidth = 64;
constexpr int kMaxHeads = 8;
constexpr int kMaxTokens = 64;
constexpr int kMaxTaps = 16;  // a tile of the matrix instruction
constexpr int kConsumers = 256;
constexpr int kThreads = kConsumers + kWarpSize;  // and a warp that fetches weights
constexpr uint32_t kStageBytes = 16 * 1024;
constexpr uint32_t kTileBytes = kStageBytes / 2;  // 64 outputs x 64 inputs
constexpr int kMaxStages = 10;

/// Sizes that follow from the parameters. Every head has a block.
struct Sizes {
  int channels, inner;  // inner: of a block
  int layerStages;      // of a block's weights
  int constants;        // floats of a layer

  __host__ __device__ explicit Sizes(const ConvStackParams& p)
      : channels(p.heads * kHeadWidth), inner(p.ffn / p.heads) {
    const bool attends = p.source > 0;
    const int gatedStages = p.heads, plainStages = p.heads / 2;  // of a product
    const int innerStages = inner / 128 * p.heads;
    layerStages = 2 * gatedStages + 1 + (attends ? 3 : 1) * plainStages + 2 * innerStages;
    constexpr int kAlways = kStackConstantsAlways.channels;
    constexpr int kAttention = kStackConstantsAll.channels - kAlways;
    constexpr int kInner = kStackConstantsAll.inner;
    constants = (kAlways + (attends ? kAttention : 0)) * channels + kInner * p.ffn;
  }
};

/// Shared memory of a block, in bytes from its beginning.
struct SharedLayout {
  uint32_t ring, buffers[2], keys, values, hidden, moments, keep, barriers, end;
  // These three are never needed at once. The others send statistics when their product is done,
  // and until ours is, taps and queries have been used.
  uint32_t taps, queries, statistics;
  uint32_t parts;  // of the statistics

  __host__ __device__ SharedLayout(const ConvStackParams& p, int tokens, int sentences,
                                   int stages) {
    const Sizes sizes(p);
    const uint32_t buffer = max(sizes.channels, sizes.inner) * tokens * 2;
    const uint32_t keyBytes = keyRows(p, sentences) * kHeadWidth * 2;
    uint32_t at = 0;
    const auto take = [&](uint32_t bytes) {
      const uint32_t from = at;
      at += roundUp(bytes, 128u);
      return from;
    };
    ring = take(stages * kStageBytes);
    buffers[0] = take(buffer);
    buffers[1] = take(buffer);
    statistics = taps = queries = take(kHeadWidth * tokens * 2);
    parts = statistics + kMaxHeads * tokens * sizeof(float2);
    keys = take(keyBytes);
    values = take(keyBytes);
    hidden = take(keyRows(p, sentences) * sizeof(float));
    moments = take(tokens * sizeof(float2));
    keep = take(tokens * sizeof(float));
    barriers = take((3 + 2 * kMaxHeads + 2 * kMaxStages) * sizeof(uint64_t));
    end = at;
  }

  __host__ __device__ static int keyRows(const ConvStackParams& p, int sentences) {
    return roundUp(sentences * p.source, 16);
  }

  __host__ __device__ static uint32_t max(int a, int b) { return a > b ? a : b; }
};
static_assert((kMaxHeads + 4) * sizeof(float2) <= kHeadWidth * 2);
static_assert(kMaxTaps * sizeof(float) <= kHeadWidth * 2);

/// Scratch memory, in bytes from its beginning. Every group has the slices that its blocks share,
/// two buffers of them. Groups that are not clusters also have counters and statistics, which begin
/// as zeros, and partial sums.
constexpr uint32_t kCounterBytes = 128;

struct ScratchLayout {
  size_t buffer, statistics, slices, partials, end;

  __host__ __device__ ScratchLayout(const ConvStackParams& p, int tokens, int groups)
      : buffer(size_t(p.heads) * kHeadWidth * tokens * 2),
        statistics(size_t(groups) * kCounterBytes),
        slices(statistics + size_t(groups) * p.heads * tokens * sizeof(uint4)),
        partials(slices + size_t(groups) * 2 * buffer),
        end(partials + size_t(groups) * p.heads * buffer) {}
};

/// Barriers in shared memory. One for each buffer and sender follows the named ones, then for each
/// stage of the ring one that says that it is full and one that says that it is empty.
enum Barrier { kStatistics, kPartials, kFree, kGathers, kBarriers = kGathers + 2 * kMaxHeads };

/// A thread's place: its block's head, its part of the block, its group's sentences.
struct Block {
  const ConvStackParams& p;
  const ConvStackTensors& t;
  const Sizes sizes;
  const int rank, stages, sentences;
  const int warpgroup, warp, lane, group, quad;  // warp of the warpgroup; lane = 4 * group + quad
  const int cluster;                             // of the grid, or a group that is not a cluster
  const int64_t row0;                            // of x and y
  int rows;                                      // of this cluster
  const float inverseChannels;
  SharedLayout at;  // offsets in shared memory
  unsigned char* shared;

  __device__ Block(const ConvStackParams& p, const ConvStackTensors& t, int tokens, int stages,
                   int sentences, unsigned char* shared)
      : p(p),
        t(t),
        sizes(p),
        rank(blockIdx.x % p.heads),
        stages(stages),
        sentences(sentences),
        // shuffled: the compiler then knows that a warp shares it, and keeps operands uniform
        warpgroup(__shfl_sync(kFullWarp, threadIdx.x / 128, 0)),
        warp(threadIdx.x / kWarpSize % 4),
        lane(threadIdx.x % kWarpSize),
        group(lane / 4),
        quad(lane % 4),
        cluster(blockIdx.x / p.heads),
        row0(int64_t(cluster) * sentences * p.length),
        inverseChannels(1.0f / sizes.channels),
        at(p, tokens, sentences, stages),
        shared(shared) {
    const int64_t left = int64_t(p.batch) * p.length - row0;
    rows = left < sentences * p.length ? int(left) : sentences * p.length;
  }

  __device__ uint32_t address(uint32_t offset) const { return sharedAddress(shared) + offset; }
  __device__ uint32_t barrier(int which) const { return address(at.barriers + which * 8); }
  __device__ uint32_t full(int s) const { return barrier(kBarriers + s); }
  __device__ uint32_t empty(int s) const { return barrier(kBarriers + kMaxStages + s); }
  /// The barrier of what a block sends to a buffer.
  __device__ uint32_t gather(int buffer, int sender) const {
    return barrier(kGathers + buffer * kMaxHeads + sender);
  }

  /// A barrier of the threads that compute, without the warp that fetches weights.
  __device__ static void consumersSync() { syncThreads<1, kConsumers>(); }
};

/// In which phase the barriers are, and which of the two buffers in memory is next.
struct Phases {
  uint32_t parities = 0;  // a bit for each named barrier: its parity
  uint32_t gathered = 0;  // a bit for each buffer: the parity of what was last sent to it
  int shares = 0;

  __device__ void await(const Block& block, Barrier which) {
    waitFor(block.barrier(which), parities >> which & 1);
    parities ^= 1u << which;
  }
  /// Wait for what a block last sent to a buffer; nothing was, before the first share().
  __device__ void awaitSlice(const Block& block, int buffer, int sender) const {
    waitFor(block.gather(buffer, sender), gathered >> buffer & 1 ^ 1);
  }
  __device__ void shared(int buffer) {
    ++shares;
    gathered ^= 1u << buffer;
  }
};

/// Reads the constants of a layer in their order, and traps where a kernel takes another order. The
/// compiler knows every index, so nothing of the check is left in the code of a correct kernel.
struct ConstantReader {
  const Block& block;
  const float* next;
  int index = 0;

  template <StackConstant kWhich>
  __device__ __forceinline__ const float* take() {
    constexpr int kChannels = kStackConstants[kWhich].length.channels;
    constexpr int kInner = kStackConstants[kWhich].length.inner;
    if (index != kWhich) __trap();
    ++index;
    const float* from = next;
    next += kInner == 0 ? kChannels * block.sizes.channels : kInner * block.p.ffn;
    return from;
  }

  /// Go on behind the attention's constants, which an encoder does not have.
  __device__ __forceinline__ void skipAttention() { index = kFc1Bias; }
};

/// Bytes of 8 channels of every position, and of a head's channels.
template <int kTokens>
constexpr int kChunkBytes = kTokens * 16;
template <int kTokens>
constexpr int kSliceBytes = kHeadWidth * kTokens * 2;

}  // namespace lite::conv_stack
