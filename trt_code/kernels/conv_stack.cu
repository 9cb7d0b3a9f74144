// Sentences do not meet inside the network, so a cluster of blocks can take a sentence (or some
// short ones, 64 positions at most) through all layers without a word to the other clusters. Each
// block owns one head: its 64 channels of every result, and its share of the inner channels.
//
//   - The layers' weights arrive as one long stream, packed in the order of use, that the bulk
//     engine copies into a ring of 16 KiB stages; it runs on through everything else.
//   - Products are W x^T on the warpgroups' matrix units: 64 outputs x the cluster's positions.
//   - A result that the next product needs as a whole goes to memory, from where every block sends
//     its channels to all blocks of the cluster at once (multicast). Two buffers take turns: a
//     block sends what it made of one only after it has everybody's part of it, so when its data
//     arrives in the other, nobody reads there any more.
//   - Convolution and attention need their own head alone.
//   - The last product sums over all inner channels, of which every block has its own: the blocks
//     exchange 16-bit partial sums, written straight into each other's memory.
//   - LayerNorm: the blocks exchange sums and squared deviations of their channels; the residual
//     stays in registers, in FP32.
//
// Clusters must each lie within one part of the chip, so that of its 132 multiprocessors an H100
// may offer 15 clusters of 8 and not 16. Where they do not suffice, the blocks that share sentences
// are a mere group: they meet at counters in memory, and exchange everything through memory.
//
// Versions, measured on an H100 at 16 x 32 in FP16, encoder and decoder in us. The decoder on 32
// positions a sentence, and on 64 in groups without clusters:
//
//   two heads a block, four blocks a group                                   208   261     -
//   one head a block; constants early, the source's mask here, taps in
//   four chains                                                              196   240     -
//   groups without clusters                                                  187   244   357
//   a product begins with what has arrived of its input                      184   238   345
//   an early launch, and no divisions where weights are fetched              176   232   338
//   the next layer's weights fetched to L2                                   176   225   337
//   fences for one kind of memory alone, waits without a fence for the GPU   156   194   290
//   products' operands counted on in uniform registers                       141   183   281
//   ten stages where there is room; statistics without a cluster as words
//   that tell their norm                                                     145   188   273
//   sends before the barriers' arrivals, and these by a thread each; sums
//   over a warp dealt out among its lanes                                    139   179   245
//   subnormal FP32 numbers count as 0                                        138   175   242
//
// A fence for both kinds of memory, and an acquire for a cluster, made every thread wait until its
// writes had come to L2, or emptied the multiprocessor's cache. Tried and not kept:
//
//   two more products split by depth                             0.704 to 0.750 ms as a whole
//   norms folded into the next product, whose input is shared
//   before its statistics are known                              189   247   340
//   weights to L2 16 or 48 stages early, with divisions          199   257   360
//   a stage less in the ring                                     0.514 to 0.56 ms as a whole
//   a word of each block instead of one counter                  0.529 to 0.536 ms as a whole
//   stages of 8 KiB, so that more is on its way                  159   196   272
//   likewise for 64 positions, and a send a warp                 159   200   268
//   15 clusters, and the 16th group beside them without one (a launch behind theirs, at a time)
//     that meets at a counter                                    253   350   392
//     that exchanges words which tell when they have come        241   330   434
#include "conv_stack.h"
#include "hopper.cuh"
#include "mma.cuh"

namespace lite {
namespace {

constexpr int kHeadWidth = 64;
constexpr int kMaxHeads = 8;
constexpr int kMaxTokens = 64;
constexpr int kMaxTaps = 16;  // a tile of the matrix instruction
constexpr int kConsumers = 256;
constexpr int kThreads = kConsumers + kWarpSize;  // and a warp that fetches weights
constexpr uint32_t kStageBytes = 16 * 1024;
constexpr uint32_t kBlockBytes = kStageBytes / 2;  // 64 outputs x 64 inputs
constexpr int kMaxStages = 10;
constexpr float kHidden = -1e30f;

/// What follows from the parameters; there is a block a head.
struct Shape {
  int channels, inner;  // inner: of a block
  int layerStages;      // of a block's weights
  int constants;        // floats of a layer

  __host__ __device__ explicit Shape(const ConvStackParams& p)
      : channels(p.heads * kHeadWidth), inner(p.ffn / p.heads) {
    const bool attends = p.source > 0;
    const int gatedStages = p.heads, plainStages = p.heads / 2;  // of a product
    const int innerStages = inner / 128 * p.heads;
    layerStages = 2 * gatedStages + 1 + (attends ? 3 : 1) * plainStages + 2 * innerStages;
    constants = (7 + (attends ? 4 : 0) + 3) * channels + p.ffn;
  }
};

/// Shared memory of a block, in bytes from its beginning.
struct Memory {
  uint32_t ring, buffers[2], keys, values, hidden, moments, keep, barriers, end;
  // These three are never needed at once. The others send statistics when their product is done,
  // and until ours is, taps and queries have been used.
  uint32_t taps, queries, statistics;
  uint32_t parts;  // of the statistics

  __host__ __device__ Memory(const ConvStackParams& p, int tokens, int sentences, int stages) {
    const Shape shape(p);
    const uint32_t buffer = max(shape.channels, shape.inner) * tokens * 2;
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

/// Scratch memory, in bytes from its beginning: for groups that are no clusters counters and
/// statistics, which begin as zeros; for all groups what the blocks share (two buffers each); and
/// again for those that are no clusters partial sums.
constexpr uint32_t kCounterBytes = 128;

struct Scratch {
  size_t buffer, statistics, slices, partials, end;

  __host__ __device__ Scratch(const ConvStackParams& p, int tokens, int groups)
      : buffer(size_t(p.heads) * kHeadWidth * tokens * 2),
        statistics(size_t(groups) * kCounterBytes),
        slices(statistics + size_t(groups) * p.heads * tokens * sizeof(uint4)),
        partials(slices + size_t(groups) * 2 * buffer),
        end(partials + size_t(groups) * p.heads * buffer) {}
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Where the blocks of a group that is no cluster meet, in memory.
struct Meeting {
  uint32_t* counter;
  uint32_t target = 0;
  uint4* statistics;  // [block][position]: a sum, the norm's number, squared deviations, the number
  uint32_t norms = 0;
  unsigned char* partials;  // [receiver][sender][a slice]
};

/// Arrive, with everything that this block has written to memory, and wait for `target` arrivals.
__device__ __forceinline__ void meetAt(uint32_t* counter, uint32_t target) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
  uint32_t arrived;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(counter) : "memory");
  } while (arrived < target);
}

/// 16 bytes to memory as all blocks see it, each half at once.
__device__ __forceinline__ void storeWords(uint4* to, const uint4& words) {
  asm volatile("st.relaxed.gpu.global.v2.b64 [%0], {%1, %2};" ::"l"(to),
               "l"(uint64_t(words.y) << 32 | words.x), "l"(uint64_t(words.w) << 32 | words.z)
               : "memory");
}

__device__ __forceinline__ uint4 loadWords(const uint4* from) {
  uint64_t low, high;
  asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
               : "=l"(low), "=l"(high)
               : "l"(from)
               : "memory");
  return {uint32_t(low), uint32_t(low >> 32), uint32_t(high), uint32_t(high >> 32)};
}

/// One block's way through the layers; a member function a step. Without kClustered, the blocks of
/// a group are in no cluster.
template <typename T, int kTokens, bool kClustered>
struct Worker {
  static constexpr int kOwn = kTokens / 2;  // positions of a warpgroup where the two share a head
  static constexpr int kChunkBytes = kTokens * 16;              // 8 channels of every position
  static constexpr int kSliceBytes = kHeadWidth * kTokens * 2;  // a head's channels of them
  static constexpr int kWarps = kConsumers / kWarpSize;
  enum Barrier { kStatistics, kPartials, kFree, kGathers, kBarriers = kGathers + 2 * kMaxHeads };

  const ConvStackParams& p;
  const ConvStackTensors& t;
  const Shape shape;
  const int rank, stages, sentences;
  const int warpgroup, warp, lane, group, quad;  // warp of the warpgroup
  const int cluster;                             // of the grid
  const int64_t row0;                            // of x and y
  int rows;                                      // of this cluster
  const float inverseChannels;
  Memory at;  // addresses in shared memory
  unsigned char* shared;
  unsigned char* slices;  // in global memory: what this cluster's blocks share, twice
  Meeting meeting;        // without a cluster
  RingPlace place;
  uint32_t parities = 0;
  uint32_t gathered = 0;  // a bit a buffer: the parity of what was last sent to it
  int shares = 0;
  float residual[kOwn / 2];
  // Within their sentences: of the positions that a lane has of transposed tiles, and of the first
  // of two whose taps it has.
  int times[kOwn / 8];
  int tapTime;

  __device__ Worker(const ConvStackParams& p, const ConvStackTensors& t, int stages, int sentences,
                    unsigned char* shared)
      : p(p),
        t(t),
        shape(p),
        rank(blockIdx.x % p.heads),
        stages(stages),
        sentences(sentences),
        // shuffled: the compiler then knows that it is a warp's, and keeps operands uniform
        warpgroup(__shfl_sync(kFullWarp, threadIdx.x / 128, 0)),
        warp(threadIdx.x / kWarpSize % 4),
        lane(threadIdx.x % kWarpSize),
        group(lane / 4),
        quad(lane % 4),
        cluster(blockIdx.x / p.heads),
        row0(int64_t(cluster) * sentences * p.length),
        inverseChannels(1.0f / shape.channels),
        at(p, kTokens, sentences, stages),
        shared(shared) {
    const int64_t left = int64_t(p.batch) * p.length - row0;
    rows = left < sentences * p.length ? int(left) : sentences * p.length;
    auto* scratch = static_cast<unsigned char*>(t.scratch);
    const Scratch of(p, kTokens, gridDim.x / p.heads);
    slices = scratch + of.slices + size_t(cluster) * 2 * of.buffer;
    meeting.counter = reinterpret_cast<uint32_t*>(scratch + cluster * kCounterBytes);
    meeting.statistics =
        reinterpret_cast<uint4*>(scratch + of.statistics) + size_t(cluster) * p.heads * kTokens;
    meeting.partials = scratch + of.partials + size_t(cluster) * p.heads * of.buffer;
  }

  __device__ uint32_t address(uint32_t offset) const { return sharedAddress(shared) + offset; }
  __device__ uint32_t barrier(int which) const { return address(at.barriers + which * 8); }
  __device__ uint32_t full(int s) const { return barrier(kBarriers + s); }
  __device__ uint32_t empty(int s) const { return barrier(kBarriers + kMaxStages + s); }
  __device__ static void consumersSync() {
    asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory");
  }
  __device__ void await(Barrier which) {
    waitFor(barrier(which), parities >> which & 1);
    parities ^= 1u << which;
  }
  __device__ uint32_t gather(int buffer, int sender) const {
    return barrier(kGathers + buffer * kMaxHeads + sender);
  }
  /// Wait for what a block last sent to a buffer; nothing was, before the first share().
  __device__ void awaitSlice(int buffer, int sender) const {
    waitFor(gather(buffer, sender), gathered >> buffer & 1 ^ 1);
  }

  // ---- the stream of weights ----

  /// The loop is kept short: it decides how fast weights come. All groups read the same ones, so
  /// each has a share of the next layer's brought to L2 for all.
  __device__ void produce() {
    const int groups = gridDim.x / p.heads;
    const size_t blockBytes = size_t(shape.layerStages) * kStageBytes;
    const size_t layerBytes = p.heads * blockBytes;
    const auto* from = static_cast<const unsigned char*>(t.weights) + rank * blockBytes;
    int turn = cluster;
    bool filled = false;  // the ring, once
    for (int layer = 0; layer < p.layers; ++layer) {
      for (int stage = 0; stage < shape.layerStages; ++stage) {
        if (filled) waitFor(empty(place.stage), place.parity ^ 1);
        arriveExpecting(full(place.stage), kStageBytes);
        bulkLoad(address(at.ring + place.stage * kStageBytes), from, kStageBytes,
                 full(place.stage));
        if (turn == 0 && layer + 1 < p.layers) bulkPrefetch(from + layerBytes, kStageBytes);
        if (++turn == groups) turn = 0;
        from += kStageBytes;
        place.advance(stages);
        filled |= place.stage == 0;
      }
      from += layerBytes - blockBytes;
    }
  }

  __device__ void release(int s) {
    __syncwarp();
    if (lane == 0) arrive(empty(s));
  }

  /// sums [64, kColumns] = the next stages of weights * columns of a buffer, whose depth is
  /// 64 * steps. With kSame both warpgroups multiply the same 64 outputs and a stage is 128 deep;
  /// else each has its own and a stage is 64 deep. With kShared the blocks sent 64 of the depth
  /// each, and a step waits for its part alone.
  template <int kColumns, bool kSame, bool kShared = true>
  __device__ void multiply(float (&sums)[kColumns / 2], int buffer, int column, int steps) {
    constexpr int kBlocks = kSame ? 2 : 1;  // of a stage that this warpgroup takes
    const uint64_t columns = operand(address(at.buffers[buffer]) + column * 16, kChunkBytes);
    const uint64_t weights =
        operand(address(at.ring) + (kSame ? 0 : warpgroup * kBlockBytes), 1024);
    int last = 0;
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) sums[i] = 0.0f;
    for (int step = 0; step < steps; step += kBlocks) {
      if constexpr (kShared) {
#pragma unroll
        for (int i = 0; i < kBlocks; ++i) awaitSlice(buffer, step + i);
      }
      waitFor(full(place.stage), place.parity);
      const uint64_t weight = further(weights, place.stage * kStageBytes);
      const uint64_t here = further(columns, step * 8 * kChunkBytes);
      pinRegisters(sums);
      beginProducts();
#pragma unroll
      for (int k = 0; k < 4 * kBlocks; ++k) {
        warpgroupProduct<T, kColumns>(sums, further(weight, k * 2048),
                                      further(here, k * 2 * kChunkBytes));
      }
      endProducts();
      pinRegisters(sums);
      if (step > 0) {
        awaitProducts<1>();
        release(last);
      }
      last = place.stage;
      place.advance(stages);
    }
    awaitProducts<0>();
    pinRegisters(sums);
    release(last);
  }

  // ---- sharing ----

  /// Where this block's channels go before share().
  __device__ unsigned char* slice() const {
    return slices + (shares & 1) * shape.channels * kTokens * 2 + rank * kSliceBytes;
  }

  /// Store an 8 x 8 tile, a row a channel and two positions a lane, into a slice.
  __device__ void storeTile(unsigned char* slice, int chunk, int token, uint32_t pair) const {
    const uint32_t flipped = transposeTile(pair);
    *reinterpret_cast<uint32_t*>(slice + chunk * kChunkBytes + (token + group) * 16 + quad * 4) =
        flipped;
  }

  /// Without a cluster: wait for all blocks of the group, and see what they wrote to memory. What
  /// follows is for the first warp; the others need another consumersSync.
  __device__ void meet() {
    consumersSync();
    if (threadIdx.x == 0) {
      meeting.target += p.heads;
      meetAt(meeting.counter, meeting.target);
    }
    __syncwarp();
  }

  /// Send this block's slice to every block's buffer.
  __device__ void share(int buffer) {
    const uint32_t to = address(at.buffers[buffer]);
    if constexpr (kClustered) {
      fenceGlobal();
      consumersSync();
      if (threadIdx.x == 0) {
        bulkLoadToAll(to + rank * kSliceBytes, slice(), kSliceBytes, gather(buffer, rank),
                      uint16_t((1 << p.heads) - 1));
      }
    } else {
      meet();
    }
    if (threadIdx.x < p.heads) {
      const int sender = threadIdx.x;
      arriveExpecting(gather(buffer, sender), kSliceBytes);
      if constexpr (!kClustered) {
        fenceGlobal();
        bulkLoad(to + sender * kSliceBytes, slice() + (sender - rank) * kSliceBytes, kSliceBytes,
                 gather(buffer, sender));
      }
    }
    ++shares;
    gathered ^= 1u << buffer;
  }

  __device__ static uint32_t pack(float a, float b) {
    return packPair(fromFloat<T>(a), fromFloat<T>(b));
  }

  // ---- the steps of a layer ----

  /// Read x into the first buffer and the residual, and the mask.
  __device__ void begin() {
    waitForPrevious();
    const T* x = static_cast<const T*>(t.x) + row0 * shape.channels;
    constexpr int kAtOnce = 8;
    for (int first = threadIdx.x; first < kTokens * shape.channels / 8;
         first += kAtOnce * kConsumers) {
      uint4 values[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        // positions beside each other, so that the stores meet all banks
        const int at = first + i * kConsumers, token = at % kTokens, chunk = at / kTokens;
        values[i] = uint4{};
        if (token < rows && chunk < shape.channels / 8) {
          values[i] =
              *reinterpret_cast<const uint4*>(x + int64_t(token) * shape.channels + chunk * 8);
        }
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int at = first + i * kConsumers;
        if (at < kTokens * shape.channels / 8) {
          *reinterpret_cast<uint4*>(shared + this->at.buffers[0] + at * 16) = values[i];
        }
      }
    }
    for (int i = threadIdx.x; i < kTokens; i += kConsumers) {
      const bool real = i < rows && (t.mask == nullptr || t.mask[row0 + i] != 0);
      reinterpret_cast<float*>(shared + at.keep)[i] = real ? 1.0f : 0.0f;
    }
    for (uint32_t i = at.keys + threadIdx.x * 16; i < at.hidden; i += kConsumers * 16) {
      *reinterpret_cast<uint4*>(shared + i) = uint4{};  // rows past the source must be finite
    }
    for (int i = threadIdx.x; i < sentences * p.source; i += kConsumers) {
      const int64_t key = int64_t(cluster) * sentences * p.source + i;
      const bool real =
          t.sourceMask == nullptr || (key < int64_t(p.batch) * p.source && t.sourceMask[key] != 0);
      reinterpret_cast<float*>(shared + at.hidden)[i] = real ? 0.0f : kHidden;
    }
#pragma unroll
    for (int j = 0; j < kOwn / 8; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int token = ownColumn() + j * 8 + group;
        uint32_t pair = 0;
        if (token < rows) pair = loadPair(x + int64_t(token) * shape.channels + ownChannel(half));
        unpack(transposeTile(pair), residual[j * 4 + half * 2], residual[j * 4 + half * 2 + 1]);
      }
    }
#pragma unroll
    for (int j = 0; j < kOwn / 8; ++j) times[j] = (ownColumn() + j * 8 + group) % p.length;
    tapTime = (threadIdx.x / kWarpSize * 8 + quad * 2) % p.length;
    fenceShared();
    consumersSync();
  }

  __device__ static void unpack(uint32_t pair, float& a, float& b) {
    const Vector<T, 2> both = *reinterpret_cast<const Vector<T, 2>*>(&pair);
    a = toFloat(both.item[0]);
    b = toFloat(both.item[1]);
  }

  /// First position of this warpgroup where it has no gate.
  __device__ int ownColumn() const { return warpgroup * kOwn; }
  /// This thread's row of a result without gate, a channel of the block.
  __device__ int ownRow(int half) const { return warp * 16 + half * 8 + group; }
  /// The first channel of two that a lane has of a transposed tile, a channel of the network.
  __device__ int ownChannel(int half) const {
    return rank * kHeadWidth + warp * 16 + half * 8 + quad * 2;
  }

  /// glu(columns of buffer `from`), shared into buffer `to`.
  __device__ void gated(const float* bias, int from, int to, bool masked) {
    const float* keep = reinterpret_cast<const float*>(shared + at.keep);
    unsigned char* out = slice();
    const int row = warpgroup * 32 + warp * 8;  // of the block
    const float value = bias[rank * kHeadWidth + row + group];
    const float gate = bias[shape.channels + rank * kHeadWidth + row + group];
    float sums[kTokens / 2];
    multiply<kTokens, false>(sums, from, 0, p.heads);
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      float result[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        result[e] =
            glu(fromFloat<T>(sums[j * 4 + e] + value), fromFloat<T>(sums[j * 4 + 2 + e] + gate));
        if (masked && keep[j * 8 + quad * 2 + e] == 0.0f) result[e] = 0.0f;
      }
      storeTile(out, row / 8, j * 8, pack(result[0], result[1]));
    }
    share(to);
  }

  /// The taps at the positions, [kMaxTaps][kTokens], 0 where they do not count.
  __device__ void findTaps(int taps, int padding, int from) {
    waitFor(full(place.stage), place.parity);
    const unsigned char* weight = shared + at.ring + place.stage * kStageBytes;
    const int tile = threadIdx.x / kWarpSize;
    if (tile < kTokens / 8) {
      float sums[4][4] = {};
      const uint32_t column = address(at.buffers[from]) + (tile * 8 + lane % 8) * 16;
      for (int step = 0; step < p.heads; ++step) {  // 64 channels
        awaitSlice(from, step);
        uint4 a[4];
        uint32_t b[2][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          a[i] = *reinterpret_cast<const uint4*>(weight + (step * 4 + i) * 512 + lane * 16);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          loadShared<false>(b[i], column + (step * 8 + i * 4 + lane / 8) * kChunkBytes);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          mma16816<T>(sums[i], {a[i].x, a[i].y, a[i].z, a[i].w},
                      {b[i / 2][i % 2 * 2], b[i / 2][i % 2 * 2 + 1]});
        }
      }
      float* out = reinterpret_cast<float*>(shared + at.taps);
      const float* keep = reinterpret_cast<const float*>(shared + at.keep);
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int token = tile * 8 + quad * 2 + e;
        const int time = e == 0 || tapTime + 1 < p.length ? tapTime + e : 0;
        float logit[2], largest = -INFINITY, total = 0.0f;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const bool counts = group + half * 8 < taps;
          logit[half] = counts ? sums[0][half * 2 + e] + sums[1][half * 2 + e] +
                                     sums[2][half * 2 + e] + sums[3][half * 2 + e]
                               : -INFINITY;
          largest = fmaxf(largest, logit[half]);
        }
#pragma unroll
        for (int offset = 4; offset < kWarpSize; offset *= 2) {
          largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, offset));
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) total += logit[half] = __expf(logit[half] - largest);
#pragma unroll
        for (int offset = 4; offset < kWarpSize; offset *= 2) {
          total += __shfl_xor_sync(kFullWarp, total, offset);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int shift = group + half * 8 - padding, there = time + shift;
          bool reaches =
              group + half * 8 < taps && there >= 0 && there < p.length && token + shift < kTokens;
          if (reaches && p.maskConv) reaches = keep[token + shift] != 0.0f;
          out[(group + half * 8) * kTokens + token] =
              reaches ? __fdividef(logit[half], total) : 0.0f;
        }
      }
    }
  }

  /// The convolution of what is in buffer `from`, shared into buffer `to`.
  __device__ void convolve(int taps, int padding, int from, int to) {
    findTaps(taps, padding, from);
    consumersSync();
    release(place.stage);
    place.advance(stages);
    const float* weights = reinterpret_cast<const float*>(shared + at.taps);
    const int chunk = threadIdx.x / kWarpSize;
    const unsigned char* column =
        shared + at.buffers[from] + rank * kSliceBytes + chunk * kChunkBytes;
    unsigned char* out = slice() + chunk * kChunkBytes;
    constexpr int kEach = kTokens / kWarpSize;
    float sums[kEach][8] = {};
#pragma unroll 4
    for (int k = 0; k < taps; ++k) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int token = i * kWarpSize + lane;
        const int there = min(max(token + k - padding, 0), kTokens - 1);
        const float weight = weights[k * kTokens + token];
        uint4 bits = *reinterpret_cast<const uint4*>(column + there * 16);
        // not just multiplied with 0: it may be another sentence's, and infinite
        if (weight == 0.0f) bits = uint4{};
        const Vector<T, 8> value = *reinterpret_cast<const Vector<T, 8>*>(&bits);
#pragma unroll
        for (int e = 0; e < 8; ++e) sums[i][e] += weight * toFloat(value.item[e]);
      }
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      storeVector(reinterpret_cast<T*>(out + (i * kWarpSize + lane) * 16), sums[i]);
    }
    share(to);
  }

  /// A thread's share of the constants of a LayerNorm and of the bias before it.
  struct Norm {
    float bias[2], scale[2], shift[2];
  };

  /// To be called early: the constants come from memory.
  __device__ Norm loadNorm(const float* bias, const float* scale, const float* shift) const {
    Norm norm;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int channel = rank * kHeadWidth + ownRow(half);
      norm.bias[half] = __ldg(bias + channel);
      norm.scale[half] = __ldg(scale + channel);
      norm.shift[half] = __ldg(shift + channel);
    }
    return norm;
  }

  /// residual = LayerNorm(residual + sums + bias) + positions, whose pairs are as they were loaded.
  __device__ void normalise(const float (&sums)[kOwn / 2], const Norm& norm,
                            const uint32_t (&positions)[kOwn / 4]) {
#pragma unroll
    for (int i = 0; i < kOwn / 2; ++i) residual[i] += sums[i] + norm.bias[i / 2 % 2];

    // 1. sums and squared deviations of this warp's 16 channels. Of each column eight lanes hold
    // two; while they add, they deal the columns out among themselves.
    auto* parts = reinterpret_cast<float2*>(shared + at.parts);  // [4 warps][kTokens]
    constexpr int kColumns = kOwn / 4;                           // of a lane
    float2 part[kColumns];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const float a = residual[i / 2 * 4 + i % 2], b = residual[i / 2 * 4 + 2 + i % 2];
      part[i] = make_float2(a + b, 0.5f * (a - b) * (a - b));
    }
    int column = 0;
#pragma unroll
    for (int step = 0; step < 3; ++step) {  // sets of 2, 4 and 8 become one
      const bool upper = (lane & (4 << step)) != 0;
      const bool several = (kColumns >> step) > 1;
      const int kept = several ? kColumns >> (step + 1) : 1;
#pragma unroll
      for (int i = 0; i < kept; ++i) {
        const int second = several ? i + kept : i;
        const float2 given = upper ? part[i] : part[second];
        if (upper) part[i] = part[second];
        const float sum = __shfl_xor_sync(kFullWarp, given.x, 4 << step);
        const float squares = __shfl_xor_sync(kFullWarp, given.y, 4 << step);
        const float away = part[i].x - sum;
        part[i].x += sum;
        part[i].y += squares + away * away * (0.25f / (1 << step));
      }
      if (several && upper) column += kept;
    }
    parts[warp * kTokens + ownColumn() + column / 2 * 8 + quad * 2 + column % 2] = part[0];
    consumersSync();

    // 2. of this block's head, sent to every block
    const float2* statistics;
    if constexpr (kClustered) {
      if (threadIdx.x == 0) {
        arriveExpecting(barrier(kStatistics), p.heads * kTokens * sizeof(float2));
      }
      for (int i = threadIdx.x; i < p.heads * kTokens; i += kConsumers) {
        const int block = i / kTokens, token = i % kTokens;
        const float2 both = merge<4, 16>(parts + token, 4, 1.0f / kHeadWidth);
        const uint32_t to = address(at.statistics + (rank * kTokens + token) * sizeof(float2));
        storeRemote(remoteAddress(to, block), both, remoteAddress(barrier(kStatistics), block));
      }
      await(kStatistics);
      statistics = reinterpret_cast<const float2*>(shared + at.statistics);
    } else {
      auto* here = reinterpret_cast<float2*>(shared + at.statistics);
      exchangeStatistics(parts, here);
      statistics = here;
    }

    // 3. of all
    auto* moments = reinterpret_cast<float2*>(shared + at.moments);
    if (threadIdx.x < kTokens) {
      const float2 both =
          merge<kMaxHeads, kHeadWidth>(statistics + threadIdx.x, p.heads, inverseChannels);
      moments[threadIdx.x] =
          make_float2(both.x * inverseChannels, rsqrtf(both.y * inverseChannels + p.eps));
    }
    consumersSync();
#pragma unroll
    for (int j = 0; j < kOwn / 8; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float more[2];
        unpack(transposeTile(positions[j * 2 + half]), more[0], more[1]);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float2 moment = moments[ownColumn() + j * 8 + quad * 2 + e];
          float& value = residual[j * 4 + half * 2 + e];
          value = (value - moment.x) * moment.y * norm.scale[half] + norm.shift[half] + more[e];
        }
      }
    }
  }

  /// Without a cluster: send this block's statistics of the parts, and fetch everybody's. They come
  /// with the norm's number. Nobody is a norm ahead: residuals are shared in between.
  __device__ void exchangeStatistics(const float2* parts, float2* statistics) {
    const uint32_t norm = ++meeting.norms;
    if (threadIdx.x < kTokens) {
      const float2 both = merge<4, 16>(parts + threadIdx.x, 4, 1.0f / kHeadWidth);
      storeWords(meeting.statistics + rank * kTokens + threadIdx.x,
                 {__float_as_uint(both.x), norm, __float_as_uint(both.y), norm});
    }
    constexpr int kEach = kMaxHeads * kTokens / kConsumers;
    const int all = p.heads * kTokens;
    uint4 words[kEach];
    bool complete;
    do {
      complete = true;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int entry = i * kConsumers + threadIdx.x;
        if (entry < all) words[i] = loadWords(meeting.statistics + entry);
      }
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int entry = i * kConsumers + threadIdx.x;
        complete &= entry >= all || (words[i].y == norm && words[i].w == norm);
      }
    } while (!complete);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int entry = i * kConsumers + threadIdx.x;
      if (entry < all) {
        statistics[entry] = make_float2(__uint_as_float(words[i].x), __uint_as_float(words[i].z));
      }
    }
    consumersSync();
  }

  /// Sum and squared deviations of kParts sets of kSize numbers; a set's lie kTokens apart. Of a
  /// number of sets that is known only here, the first `parts` count.
  template <int kParts, int kSize>
  __device__ static float2 merge(const float2* from, int parts, float inverseCount) {
    float2 part[kParts];
    float sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      part[i] = i < parts ? from[i * kTokens] : float2{};
      sum += part[i].x;
    }
    const float mean = sum * inverseCount;
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const float away = part[i].x * (1.0f / kSize) - mean;
      if (i < parts) squares += part[i].y + kSize * away * away;
    }
    return make_float2(sum, squares);
  }

  /// Share the residual into a buffer.
  __device__ void shareResidual(int to) {
    unsigned char* out = slice();
#pragma unroll
    for (int j = 0; j < kOwn / 8; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        storeTile(out, ownRow(half) / 8, ownColumn() + j * 8,
                  pack(residual[j * 4 + half * 2], residual[j * 4 + half * 2 + 1]));
      }
    }
    share(to);
  }

  /// A product of C channels with what is in buffer `from`, then `normalise`.
  __device__ void project(int from, const float* bias, const float* scale, const float* shift) {
    const Norm norm = loadNorm(bias, scale, shift);
    const uint32_t nothing[kOwn / 4] = {};
    float sums[kOwn / 2];
    multiply<kOwn, true>(sums, from, ownColumn(), p.heads);
    normalise(sums, norm, nothing);
  }

  /// Start copying this block's keys and values of a layer, as [8 channels][row] each.
  __device__ void fetchKeys(int layer) {
    const int keys = Memory::keyRows(p, sentences), count = sentences * p.source;
    const int64_t first = int64_t(cluster) * count;
    const int64_t all = int64_t(p.batch) * p.source;
    for (int i = threadIdx.x; i < 2 * 8 * count; i += kConsumers) {
      const int chunk = i % 8, which = i / 8 % 2, key = i / 16;
      if (first + key >= all) continue;
      const T* from = static_cast<const T*>(t.keysValues) + (first + key) * p.sourceStride +
                      int64_t(2 * layer + which) * shape.channels + rank * kHeadWidth + chunk * 8;
      const uint32_t to = address(which == 0 ? at.keys : at.values) + (chunk * keys + key) * 16;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  /// Attention with the queries of what is in buffer `from`, shared into buffer `to`.
  __device__ void attend(const float* bias, int from, int to) {
    float sums[kOwn / 2];
    float biasOf[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      biasOf[half] = __ldg(bias + rank * kHeadWidth + ownRow(half));
    }
    multiply<kOwn, true>(sums, from, ownColumn(), p.heads);
#pragma unroll
    for (int j = 0; j < kOwn / 8; j += 2) {
      storeTiles(address(at.queries), ownRow(0) / 8, ownColumn() + j * 8, sums, j, biasOf);
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
    consumersSync();
    if (threadIdx.x / kWarpSize < kTokens / 16) attendTile(threadIdx.x / kWarpSize);
    share(to);
  }

  /// Add biases and write two neighbouring pairs of tiles [2 * 8 channels, 2 * 8 positions] to a
  /// buffer of shared memory; sums j and j + 1.
  template <int kSums>
  __device__ void storeTiles(uint32_t buffer, int chunk, int token, const float (&sums)[kSums],
                             int j, const float (&bias)[2]) const {
    uint32_t tiles[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int from = (j + i / 2) * 4 + i % 2 * 2;
      tiles[i] = pack(sums[from] + bias[i % 2], sums[from + 1] + bias[i % 2]);
    }
    const int tile = lane / 8;
    storeTransposed(
        buffer + (chunk + tile % 2) * kChunkBytes + (token + tile / 2 * 8 + lane % 8) * 16, tiles);
  }

  /// Attention for 16 positions, with an online softmax.
  __device__ void attendTile(int tile) {
    const int keys = Memory::keyRows(p, sentences);
    const int sentence = tile * 16 / p.length;  // several have whole tiles each
    unsigned char* out = slice();
    const bool exists = sentence < sentences && cluster * sentences + sentence < p.batch;
    const float* hidden = reinterpret_cast<const float*>(shared + at.hidden);
    const int matrix = lane / 8;
    uint32_t a[kHeadWidth / 16][4];
#pragma unroll
    for (int d = 0; d < kHeadWidth / 16; ++d) {
      loadShared<false>(a[d], address(at.queries) + (d * 2 + matrix / 2) * kChunkBytes +
                                  (tile * 16 + matrix % 2 * 8 + lane % 8) * 16);
    }
    float sums[kHeadWidth / 8][4] = {};
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
    for (int s = 0; exists && s < p.source; s += 16) {
      const int base = sentence * p.source + s;
      float scores[2][4] = {};
#pragma unroll
      for (int d = 0; d < kHeadWidth / 16; ++d) {
        uint32_t b[4];
        const int key = min(base + matrix / 2 * 8 + lane % 8, keys - 1);
        loadShared<false>(b, address(at.keys) + ((d * 2 + matrix % 2) * keys + key) * 16);
        mma16816<T>(scores[0], a[d], {b[0], b[1]});
        mma16816<T>(scores[1], a[d], {b[2], b[3]});
      }
      float peak[2] = {largest[0], largest[1]};
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int key = s + n * 8 + quad * 2 + e;
          const bool inside = key < p.source;
          const float instead = inside ? hidden[sentence * p.source + key] : -INFINITY;
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float& score = scores[n][half * 2 + e];
            // replaced, not added: hidden positions are all alike, whatever their scores
            if (instead != 0.0f) score = instead;
            peak[half] = fmaxf(peak[half], score);
          }
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        peak[half] = fmaxf(peak[half], __shfl_xor_sync(kFullWarp, peak[half], 1));
        peak[half] = fmaxf(peak[half], __shfl_xor_sync(kFullWarp, peak[half], 2));
        const float shrink = __expf(largest[half] - peak[half]);
        largest[half] = peak[half];
        total[half] *= shrink;
#pragma unroll
        for (int j = 0; j < kHeadWidth / 8; ++j) {
          sums[j][half * 2] *= shrink;
          sums[j][half * 2 + 1] *= shrink;
        }
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& score = scores[n][half * 2 + e];
            score = __expf(score - peak[half]);
            total[half] += score;
          }
        }
      }
      const uint32_t weights[4] = {
          pack(scores[0][0], scores[0][1]), pack(scores[0][2], scores[0][3]),
          pack(scores[1][0], scores[1][1]), pack(scores[1][2], scores[1][3])};
#pragma unroll
      for (int j = 0; j < kHeadWidth / 8; j += 2) {
        uint32_t b[4];
        const int key = min(base + matrix % 2 * 8 + lane % 8, keys - 1);
        loadShared<true>(b, address(at.values) + ((j + matrix / 2) * keys + key) * 16);
        mma16816<T>(sums[j], weights, {b[0], b[1]});
        mma16816<T>(sums[j + 1], weights, {b[2], b[3]});
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      total[half] += __shfl_xor_sync(kFullWarp, total[half], 1);
      total[half] += __shfl_xor_sync(kFullWarp, total[half], 2);
      const float scale = exists ? 1.0f / total[half] : 0.0f;
      const int token = tile * 16 + half * 8 + group;
#pragma unroll
      for (int j = 0; j < kHeadWidth / 8; ++j) {
        *reinterpret_cast<uint32_t*>(out + j * kChunkBytes + token * 16 + quad * 4) =
            pack(sums[j][half * 2] * scale, sums[j][half * 2 + 1] * scale);
      }
    }
  }

  template <bool kTransposed>
  __device__ static void loadShared(uint32_t (&tiles)[4], uint32_t row) {
    if constexpr (kTransposed) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                   : "r"(row));
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                   : "r"(row));
    }
  }

  /// The feed-forward part of what is in buffer 0, then `normalise`. Its inner channels go to
  /// buffer 1, the partial sums that the other blocks send to buffer 0.
  __device__ void feedForward(const float* innerBias, const float* bias, const float* scale,
                              const float* shift, const T* positions) {
    const Norm norm = loadNorm(bias, scale, shift);
    for (int pass = 0; pass < shape.inner / 128; ++pass) {
      const int row = pass * 128 + warpgroup * 64 + warp * 16;  // of the block's inner channels
      const float biasOf[2] = {__ldg(innerBias + rank * shape.inner + row + group),
                               __ldg(innerBias + rank * shape.inner + row + 8 + group)};
      float sums[kTokens / 2];
      multiply<kTokens, false>(sums, 0, 0, p.heads);
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) {
        sums[i] = relu(sums[i] + biasOf[i / 2 % 2]);
      }
      const float none[2] = {};
#pragma unroll
      for (int j = 0; j < kTokens / 8; j += 2) {
        storeTiles(address(at.buffers[1]), row / 8, j * 8, sums, j, none);
      }
    }
    fenceShared();
    consumersSync();
    if constexpr (kClustered) {
      // Buffer 0 is read no more here.
      if (threadIdx.x < p.heads) arriveRemote(remoteAddress(barrier(kFree), threadIdx.x));
      if (threadIdx.x == 0) {
        arriveExpecting(barrier(kPartials), shape.channels * kTokens * 2);
      }
    }

    uint32_t pairs[kOwn / 4];
#pragma unroll
    for (int i = 0; i < kOwn / 4; ++i) {
      pairs[i] = positions == nullptr
                     ? 0
                     : loadPair(positions + times[i / 2] * shape.channels + ownChannel(i % 2));
    }

    // What the blocks send lies as [sender][kTokens / 16][128 threads][16 bytes].
    for (int pass = 0; pass < p.heads / 2; ++pass) {
      float sums[kTokens / 2];
      multiply<kTokens, false, false>(sums, 1, 0, shape.inner / 64);
      if (kClustered && pass == 0) await(kFree);
      const int receiver = pass * 2 + warpgroup;
      const int place = rank * kSliceBytes + threadIdx.x % 128 * 16;
      uint32_t to = 0, counted = 0;
      if constexpr (kClustered) {
        to = remoteAddress(address(at.buffers[0] + place), receiver);
        counted = remoteAddress(barrier(kPartials), receiver);
      }
#pragma unroll
      for (int i = 0; i < kTokens / 16; ++i) {
        const uint4 value{
            pack(sums[i * 8], sums[i * 8 + 1]), pack(sums[i * 8 + 2], sums[i * 8 + 3]),
            pack(sums[i * 8 + 4], sums[i * 8 + 5]), pack(sums[i * 8 + 6], sums[i * 8 + 7])};
        if constexpr (kClustered) {
          storeRemote(to + i * 2048, value, counted);
        } else {
          __stcg(reinterpret_cast<uint4*>(meeting.partials + receiver * p.heads * kSliceBytes +
                                          place + i * 2048),
                 value);
        }
      }
    }

    const unsigned char* mine;
    if constexpr (kClustered) {
      await(kPartials);
      mine = shared + at.buffers[0];
    } else {
      meet();
      consumersSync();
      mine = meeting.partials + rank * p.heads * kSliceBytes;
    }
    mine += ownColumn() / 16 * 2048 + threadIdx.x % 128 * 16;
    float sums[kOwn / 2] = {};
#pragma unroll 4
    for (int sender = 0; sender < p.heads; ++sender) {
#pragma unroll
      for (int i = 0; i < kOwn / 16; ++i) {
        const auto* from = reinterpret_cast<const uint4*>(mine + sender * kSliceBytes + i * 2048);
        const uint4 bits = kClustered ? *from : __ldcg(from);
        const Vector<T, 8> part = *reinterpret_cast<const Vector<T, 8>*>(&bits);
#pragma unroll
        for (int e = 0; e < 8; ++e) sums[i * 8 + e] += toFloat(part.item[e]);
      }
    }
    normalise(sums, norm, pairs);
  }

  /// Write the residual, in x's layout.
  __device__ void finish() {
    T* y = static_cast<T*>(t.y) + row0 * shape.channels;
#pragma unroll
    for (int j = 0; j < kOwn / 8; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t flipped =
            transposeTile(pack(residual[j * 4 + half * 2], residual[j * 4 + half * 2 + 1]));
        const int token = ownColumn() + j * 8 + group;
        if (token < rows) {
          *reinterpret_cast<uint32_t*>(y + int64_t(token) * shape.channels + ownChannel(half)) =
              flipped;
        }
      }
    }
  }

  __device__ void consume() {
    const int channels = shape.channels;
    begin();
    for (int layer = 0; layer < p.layers; ++layer) {
      const float* next = t.constants + layer * shape.constants;
      const auto take = [&next](int count) {
        const float* from = next;
        next += count;
        return from;
      };
      if (p.source > 0) fetchKeys(layer);
      gated(take(2 * channels), 0, 1, t.mask != nullptr);
      gated(take(2 * channels), 1, 0, false);
      convolve(p.kernelSizes[layer], p.paddings[layer], 0, 1);
      const float* bias = take(channels);
      const float* scale = take(channels);
      project(1, bias, scale, take(channels));
      shareResidual(0);
      if (p.source > 0) {
        attend(take(channels), 0, 1);
        const float* outBias = take(channels);
        const float* outScale = take(channels);
        project(1, outBias, outScale, take(channels));
        shareResidual(0);
      }
      const bool last = layer + 1 == p.layers;
      const float* innerBias = take(p.ffn);
      const float* lastBias = take(channels);
      const float* lastScale = take(channels);
      feedForward(innerBias, lastBias, lastScale, take(channels),
                  last ? nullptr : static_cast<const T*>(t.positions));
      if (!last) shareResidual(0);
    }
    finish();
  }
};

#endif

template <typename T, int kTokens, bool kClustered>
__global__ void __launch_bounds__(kThreads, 1)
    convStackKernel(const __grid_constant__ ConvStackParams p, ConvStackTensors t, int stages,
                    int sentences) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) unsigned char shared[];
  using Block = Worker<T, kTokens, kClustered>;
  Block block(p, t, stages, sentences, shared);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Block::kBarriers; ++i) {
      initBarrier(block.barrier(i), i == Block::kFree ? p.heads : 1);
    }
    for (int s = 0; s < stages; ++s) {
      initBarrier(block.full(s), 1);
      initBarrier(block.empty(s), Block::kWarps);
    }
    publishBarriers();
  }
  if constexpr (kClustered) {
    clusterSync();
  } else {
    __syncthreads();
  }
  if (threadIdx.x < kConsumers) {
    block.consume();
  } else if (threadIdx.x == kConsumers) {
    block.produce();
  }
  __syncwarp();
  if constexpr (kClustered) clusterSync();  // none may end while another still writes to it
#endif
}

/// The kernel of a plan.
using Kernel = void (*)(ConvStackParams, ConvStackTensors, int, int);

template <typename T>
Kernel kernelOf(int tokens, bool clustered) {
  if (!clustered) return convStackKernel<T, kMaxTokens, false>;
  return tokens == 32 ? convStackKernel<T, 32, true> : convStackKernel<T, kMaxTokens, true>;
}

Kernel kernelOf(DataType dtype, int tokens, bool clustered) {
  return dtype == DataType::kHalf ? kernelOf<__half>(tokens, clustered)
                                  : kernelOf<__nv_bfloat16>(tokens, clustered);
}

int tokensOf(const ConvStackParams& p, const ConvStackPlan& plan) {
  return plan.clustered && plan.sentences * p.length <= 32 ? 32 : kMaxTokens;
}

/// Sentences of a cluster of so many positions, 0 where none fits. The attention's tiles of 16
/// positions must lie in one sentence each.
int sentencesOf(const ConvStackParams& p, int tokens) {
  const bool several = p.source == 0 || p.length % 16 == 0;
  int sentences = several ? tokens / p.length : int(p.length <= tokens);
  if (p.source > 0) sentences = std::min(sentences, std::max(1, kMaxTokens / p.source));
  return std::min(sentences, p.batch);
}

struct Launch {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attributes[2]{};
  Kernel kernel;
};

/// How a plan is launched; the configuration points into `launch`.
cudaError_t configure(const ConvStackParams& p, const ConvStackPlan& plan, cudaStream_t stream,
                      Launch* launch) {
  const int tokens = tokensOf(p, plan);
  launch->kernel = kernelOf(p.dtype, tokens, plan.clustered);
  const size_t bytes = Memory(p, tokens, plan.sentences, plan.stages).end;
  const cudaError_t status = allowSharedBytes(launch->kernel, bytes);
  cudaLaunchAttribute* attribute = launch->attributes;
  if (plan.clustered) {
    attribute->id = cudaLaunchAttributeClusterDimension;
    attribute->val.clusterDim = {unsigned(p.heads), 1, 1};
    ++attribute;
    attribute->id = cudaLaunchAttributeProgrammaticStreamSerialization;  // weights come early
    attribute->val.programmaticStreamSerializationAllowed = 1;
  } else {
    attribute->id = cudaLaunchAttributeCooperative;
    attribute->val.cooperative = 1;
  }
  launch->config.gridDim = dim3(unsigned(plan.groups * p.heads));
  launch->config.blockDim = dim3(kThreads);
  launch->config.dynamicSmemBytes = bytes;
  launch->config.stream = stream;
  launch->config.attrs = launch->attributes;
  launch->config.numAttrs = unsigned(attribute + 1 - launch->attributes);
  return status;
}

}  // namespace

const char* check(const ConvStackParams& p) {
  if (p.dtype != DataType::kHalf && p.dtype != DataType::kBFloat16) {
    return "the data type must be half or bfloat16";
  }
  if (p.batch < 1 || p.length < 1) return "batch and length must be positive";
  if (p.length > kMaxTokens) return "the length must be at most 64";
  if (p.heads < 2 || p.heads > kMaxHeads || p.heads % 2 != 0)
    return "the heads must be 2, 4, 6 or 8";
  if (p.ffn < 1 || p.ffn % (128 * p.heads) != 0) {
    return "the inner channels must be a multiple of 128 a head";
  }
  if (p.ffn > 4 * kHeadWidth * p.heads)
    return "the inner channels must be at most 4 times the rest";
  if (p.layers < 1 || p.layers > kMaxStackLayers) return "the layers must be 1 to 16";
  for (int layer = 0; layer < p.layers; ++layer) {
    if (p.kernelSizes[layer] < 1 || p.kernelSizes[layer] > kMaxTaps) {
      return "the kernel sizes must be 1 to 16";
    }
    if (p.paddings[layer] < 0 || p.paddings[layer] >= p.kernelSizes[layer]) {
      return "padding_l must be 0 to kernel size - 1";
    }
  }
  if (p.source < 0 || p.source > kMaxTokens) return "the source's length must be at most 64";
  if (p.source > 0 &&
      (p.sourceStride < 2 * int64_t(p.layers) * kHeadWidth * p.heads || p.sourceStride % 8 != 0)) {
    return "the source must hold the keys and values of every layer";
  }
  if (!(p.eps >= 0.0f)) return "eps must not be negative";
  return nullptr;
}

cudaError_t planConvStack(const ConvStackParams& p, ConvStackPlan* plan) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  bool hopper = false;
  int mostShared = 0, processors = 0;
  cudaError_t status = isHopper(&hopper);
  if (status == cudaSuccess) {
    status = deviceAttribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, &mostShared);
  }
  if (status == cudaSuccess) {
    status = deviceAttribute(cudaDevAttrMultiProcessorCount, &processors);
  }
  if (status != cudaSuccess) return status;
  if (!hopper) return cudaErrorNotSupported;

  // Few positions are done sooner, and clusters are faster, but all groups must find room at once.
  struct Way {
    int tokens;
    bool clustered;
  };
  for (const Way way : {Way{32, true}, Way{kMaxTokens, true}, Way{kMaxTokens, false}}) {
    const int sentences = sentencesOf(p, way.tokens);
    if (sentences == 0) continue;
    int stages = kMaxStages;
    while (stages > 1 && int(Memory(p, way.tokens, sentences, stages).end) > mostShared) --stages;
    if (stages < 2) continue;
    *plan = {sentences, ceilDiv(p.batch, sentences), stages, way.clustered};
    if (tokensOf(p, *plan) != way.tokens) continue;
    Launch launch;
    status = configure(p, *plan, nullptr, &launch);
    if (status != cudaSuccess) return status;
    int resident = processors / p.heads;
    if (way.clustered) {
      status = cudaOccupancyMaxActiveClusters(&resident, launch.kernel, &launch.config);
      if (status != cudaSuccess) return status;
    }
    if (resident >= plan->groups) return cudaSuccess;
  }
  return cudaErrorNotSupported;
}

size_t convStackWeightSize(const ConvStackParams& p) {
  return size_t(p.layers) * p.heads * Shape(p).layerStages * (kStageBytes / 2);
}

size_t convStackConstantSize(const ConvStackParams& p) {
  return size_t(p.layers) * Shape(p).constants;
}

size_t convStackScratchSize(const ConvStackParams& p, const ConvStackPlan& plan) {
  const Scratch scratch(p, tokensOf(p, plan), plan.groups);
  return plan.clustered ? scratch.partials : scratch.end;
}

cudaError_t convStack(const ConvStackParams& p, const ConvStackPlan& plan,
                      const ConvStackTensors& tensors, cudaStream_t stream) {
  const bool complete = tensors.x != nullptr && tensors.weights != nullptr &&
                        tensors.constants != nullptr && tensors.y != nullptr &&
                        tensors.scratch != nullptr &&
                        (p.source == 0 || tensors.keysValues != nullptr);
  if (check(p) != nullptr || !complete ||
      !aligned(16, {tensors.x, tensors.keysValues, tensors.positions, tensors.y}) ||
      !aligned(128, {tensors.weights, tensors.scratch})) {
    return cudaErrorInvalidValue;
  }
  Launch launch;
  cudaError_t status = configure(p, plan, stream, &launch);
  if (status == cudaSuccess && !plan.clustered) {
    status = cudaMemsetAsync(tensors.scratch, 0, Scratch(p, tokensOf(p, plan), plan.groups).slices,
                             stream);
  }
  if (status != cudaSuccess) return status;
  return cudaLaunchKernelEx(&launch.config, launch.kernel, p, tensors, plan.stages, plan.sentences);
}

}  // namespace lite
