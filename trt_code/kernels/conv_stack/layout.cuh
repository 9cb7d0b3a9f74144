// Sizes of conv_stack, the layout of its shared and scratch memory, and the place of one thread.
#pragma once

#include "../common.cuh"
#include "../conv_stack.h"
#include "../ptx/mbarrier.cuh"

namespace lite::conv_stack {

constexpr int kHeadWidth = kStackHeadWidth;
constexpr int kMaxHeads = 8;
constexpr int kMaxTokens = 64;
constexpr int kMaxTaps = 16;  // a tile of the matrix instruction
constexpr int kConsumers = 256;
constexpr int kThreads = kConsumers + kWarpSize;  // plus one warp that fetches weights
constexpr uint32_t kStageBytes = 16 * 1024;
constexpr uint32_t kTileBytes = kStageBytes / 2;  // 64 outputs x 64 inputs
constexpr int kMaxStages = 10;

/// Sizes derived from the parameters. There is one block per head.
struct Sizes {
  int channels, inner;  // inner: per block
  int layerStages;      // per block, of its weights
  int constants;        // floats per layer

  __host__ __device__ explicit Sizes(const ConvStackParams& p)
      : channels(p.heads * kHeadWidth), inner(p.ffn / p.heads) {
    const bool attends = p.source > 0;
    const int gatedStages = p.heads, plainStages = p.heads / 2;  // per product
    const int innerStages = inner / 128 * p.heads;
    layerStages = 2 * gatedStages + 1 + (attends ? 3 : 1) * plainStages + 2 * innerStages;
    constexpr int kAlways = kStackConstantsAlways.channels;
    constexpr int kAttention = kStackConstantsAll.channels - kAlways;
    constexpr int kInner = kStackConstantsAll.inner;
    constants = (kAlways + (attends ? kAttention : 0)) * channels + kInner * p.ffn;
  }
};

/// Layout of a block's shared memory. Offsets are in bytes from its start.
struct SharedLayout {
  uint32_t ring, buffers[2], keys, values, hidden, moments, keep, barriers, end;
  // These three are never in use at the same time. The other blocks send statistics after they have
  // finished their product, and that product needs this block's part. By then this block no longer
  // needs taps and queries.
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

/// Layout of the scratch memory. Offsets are in bytes from its start. Every group has two buffers
/// for the slices that its blocks share. Groups that are not clusters also have counters and
/// statistics, which must start as zeros, and partial sums.
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

/// Barriers in shared memory. The named barriers come first, then one barrier per buffer and
/// sender, then two barriers per stage of the ring: one for full and one for empty.
enum Barrier { kStatistics, kPartials, kFree, kGathers, kBarriers = kGathers + 2 * kMaxHeads };

/// The place of a thread: its block's head, its part of the block, and its group's sentences.
struct Block {
  const ConvStackParams& p;
  const ConvStackTensors& t;
  const Sizes sizes;
  const int rank, stages, sentences;
  const int warpgroup, warp, lane, group, quad;  // warp in warpgroup; lane = 4 * group + quad
  const int cluster;   // index in the grid; a cluster, or a group that is not a cluster
  const int64_t row0;  // of x and y
  int rows;            // rows of this cluster
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
        // the shuffle tells the compiler that the value is the same for the whole warp, so it keeps
        // operands uniform
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
  /// Returns the barrier for the data that a block sends to a buffer.
  __device__ uint32_t gather(int buffer, int sender) const {
    return barrier(kGathers + buffer * kMaxHeads + sender);
  }

  /// Synchronises the threads that compute, without the warp that fetches weights.
  __device__ static void consumersSync() { syncThreads<1, kConsumers>(); }
};

/// The current phases of the barriers, and which of the two buffers in memory comes next.
struct Phases {
  uint32_t parities = 0;  // one bit per named barrier: its parity
  uint32_t gathered = 0;  // one bit per buffer: the parity of its last transfer
  int shares = 0;

  __device__ void await(const Block& block, Barrier which) {
    waitFor(block.barrier(which), parities >> which & 1);
    parities ^= 1u << which;
  }
  /// Waits for the last data that a block sent to a buffer. Before the first share() there is none.
  __device__ void awaitSlice(const Block& block, int buffer, int sender) const {
    waitFor(block.gather(buffer, sender), gathered >> buffer & 1 ^ 1);
  }
  __device__ void shared(int buffer) {
    ++shares;
    gathered ^= 1u << buffer;
  }
};

/// Reads the constants of a layer in order, and traps if a kernel reads them in another order. The
/// compiler knows every index, so it removes the check from a correct kernel.
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

  /// Skips the attention's constants, which an encoder does not have.
  __device__ __forceinline__ void skipAttention() { index = kFc1Bias; }
};

/// Bytes of 8 channels at every position, and of all channels of a head.
template <int kTokens>
constexpr int kChunkBytes = kTokens * 16;
template <int kTokens>
constexpr int kSliceBytes = kHeadWidth * kTokens * 2;

}  // namespace lite::conv_stack
