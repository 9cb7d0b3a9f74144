// The steps of a layer: gate, convolution, attention, feed-forward part, and the norms between
// them.
#pragma once

#include "../products.cuh"
#include "../ptx/async_copy.cuh"
#include "exchange.cuh"
#include "weights.cuh"

namespace lite::conv_stack {

constexpr float kHidden = -1e30f;

/// Computes one thread's share of all layers, with one member function per step. Exchange is the
/// way in which the blocks of a group exchange data.
template <typename T, int kTokens, typename Exchange>
struct Worker : Block {
  static constexpr int kOwn = kTokens / 2;  // positions per warpgroup when the two share a head

  Exchange exchange;
  WeightStream<T, kTokens> stream;
  Phases phases;
  float residual[kOwn / 2];
  // Positions within their sentences: those that a lane holds of transposed tiles, and the first of
  // the two for which it holds taps.
  int times[kOwn / 8];
  int tapTime;

  __device__ Worker(const ConvStackParams& p, const ConvStackTensors& t, int stages, int sentences,
                    unsigned char* shared)
      : Block(p, t, kTokens, stages, sentences, shared), exchange(*this) {}

  /// Stores an 8 x 8 tile into a slice. A row of the tile is a channel, and each lane holds two
  /// positions.
  __device__ void storeTile(unsigned char* slice, int chunk, int token, uint32_t pair) const {
    const uint32_t flipped = transposeTile(pair);
    *reinterpret_cast<uint32_t*>(slice + chunk * kChunkBytes<kTokens> + (token + group) * 16 +
                                 quad * 4) = flipped;
  }

  // ---- the steps of a layer ----

  /// Reads the mask, and x into the first buffer and the residual.
  __device__ void begin() {
    waitForPrevious();
    const T* x = static_cast<const T*>(t.x) + row0 * sizes.channels;
    constexpr int kAtOnce = 8;
    for (int first = threadIdx.x; first < kTokens * sizes.channels / 8;
         first += kAtOnce * kConsumers) {
      uint4 values[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        // neighbouring positions, so that the stores use all banks
        const int at = first + i * kConsumers, token = at % kTokens, chunk = at / kTokens;
        values[i] = uint4{};
        if (token < rows && chunk < sizes.channels / 8) {
          values[i] =
              *reinterpret_cast<const uint4*>(x + int64_t(token) * sizes.channels + chunk * 8);
        }
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int at = first + i * kConsumers;
        if (at < kTokens * sizes.channels / 8) {
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
        if (token < rows) pair = loadPair(x + int64_t(token) * sizes.channels + ownChannel(half));
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

  /// The first position of this warpgroup in a product without a gate.
  __device__ int ownColumn() const { return warpgroup * kOwn; }
  /// This thread's row in the result of a product without a gate: a channel of the block.
  __device__ int ownRow(int half) const { return warp * 16 + half * 8 + group; }
  /// The first of the two network channels that a lane holds of a transposed tile.
  __device__ int ownChannel(int half) const {
    return rank * kHeadWidth + warp * 16 + half * 8 + quad * 2;
  }

  /// Computes glu(columns of buffer `from`) and shares it into buffer `to`.
  __device__ void gated(const float* bias, int from, int to, bool masked) {
    const float* keep = reinterpret_cast<const float*>(shared + at.keep);
    unsigned char* out = exchange.slice(*this, phases);
    const int row = warpgroup * 32 + warp * 8;  // of the block
    const float value = bias[rank * kHeadWidth + row + group];
    const float gate = bias[sizes.channels + rank * kHeadWidth + row + group];
    float sums[kTokens / 2];
    stream.template multiply<kTokens, false>(*this, phases, sums, from, 0, p.heads);
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      float result[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        result[e] =
            glu(fromFloat<T>(sums[j * 4 + e] + value), fromFloat<T>(sums[j * 4 + 2 + e] + gate));
        if (masked && keep[j * 8 + quad * 2 + e] == 0.0f) result[e] = 0.0f;
      }
      storeTile(out, row / 8, j * 8, packFloats<T>(result[0], result[1]));
    }
    exchange.share(*this, phases, to);
  }

  /// Computes the taps at the positions, [kMaxTaps][kTokens]. Taps that do not apply are 0.
  __device__ void findTaps(int taps, int padding, int from) {
    waitFor(full(stream.place.stage), stream.place.parity);
    const unsigned char* weight = shared + at.ring + stream.place.stage * kStageBytes;
    const int tile = threadIdx.x / kWarpSize;
    if (tile < kTokens / 8) {
      float sums[4][4] = {};
      const uint32_t column = address(at.buffers[from]) + (tile * 8 + lane % 8) * 16;
      for (int step = 0; step < p.heads; ++step) {  // 64 channels
        phases.awaitSlice(*this, from, step);
        uint4 a[4];
        uint32_t b[2][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          a[i] = *reinterpret_cast<const uint4*>(weight + (step * 4 + i) * 512 + lane * 16);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          loadTiles(b[i], column + (step * 8 + i * 4 + lane / 8) * kChunkBytes<kTokens>);
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

  /// Computes the convolution of buffer `from` and shares it into buffer `to`.
  __device__ void convolve(int taps, int padding, int from, int to) {
    findTaps(taps, padding, from);
    consumersSync();
    stream.release(*this, stream.place.stage);
    stream.advance(*this);
    const float* weights = reinterpret_cast<const float*>(shared + at.taps);
    const int chunk = threadIdx.x / kWarpSize;
    const unsigned char* column =
        shared + at.buffers[from] + rank * kSliceBytes<kTokens> + chunk * kChunkBytes<kTokens>;
    unsigned char* out = exchange.slice(*this, phases) + chunk * kChunkBytes<kTokens>;
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
        // not just multiplied by 0: the input may belong to another sentence and be infinite
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
    exchange.share(*this, phases, to);
  }

  /// A thread's share of the constants of a LayerNorm and of the bias before it.
  struct Norm {
    float bias[2], scale[2], shift[2];
  };

  /// Call this early: the constants come from global memory.
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

  /// Computes residual = LayerNorm(residual + sums + bias) + positions. The pairs of positions are
  /// passed as they were loaded.
  __device__ void normalise(const float (&sums)[kOwn / 2], const Norm& norm,
                            const uint32_t (&positions)[kOwn / 4]) {
#pragma unroll
    for (int i = 0; i < kOwn / 2; ++i) residual[i] += sums[i] + norm.bias[i / 2 % 2];

    //   1. The sums and squared deviations of this warp's 16 channels. Eight lanes hold two
    //      channels of each column. While the lanes add, they divide the columns among themselves.
    auto* parts = reinterpret_cast<float2*>(shared + at.parts);  // [4 warps][kTokens]
    constexpr int kColumns = kOwn / 4;                           // per lane
    float2 part[kColumns];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const float a = residual[i / 2 * 4 + i % 2], b = residual[i / 2 * 4 + 2 + i % 2];
      part[i] = make_float2(a + b, 0.5f * (a - b) * (a - b));
    }
    int column = 0;
#pragma unroll
    for (int step = 0; step < 3; ++step) {  // merge sets into sets of 2, 4 and 8
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

    //   2. The statistics of this block's head, sent to every block.
    const float2* statistics = exchange.statistics(*this, phases, parts);

    //   3. The statistics of all heads.
    auto* moments = reinterpret_cast<float2*>(shared + at.moments);
    if (threadIdx.x < kTokens) {
      const float2 both =
          merge<kTokens, kMaxHeads, kHeadWidth>(statistics + threadIdx.x, p.heads, inverseChannels);
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

  /// Shares the residual into a buffer.
  __device__ void shareResidual(int to) {
    unsigned char* out = exchange.slice(*this, phases);
#pragma unroll
    for (int j = 0; j < kOwn / 8; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        storeTile(out, ownRow(half) / 8, ownColumn() + j * 8,
                  packFloats<T>(residual[j * 4 + half * 2], residual[j * 4 + half * 2 + 1]));
      }
    }
    exchange.share(*this, phases, to);
  }

  /// Multiplies C channels of weights with buffer `from`, then calls `normalise`.
  __device__ void project(int from, const float* bias, const float* scale, const float* shift) {
    const Norm norm = loadNorm(bias, scale, shift);
    const uint32_t nothing[kOwn / 4] = {};
    float sums[kOwn / 2];
    stream.template multiply<kOwn, true>(*this, phases, sums, from, ownColumn(), p.heads);
    normalise(sums, norm, nothing);
  }

  /// Starts copying this block's keys and values of a layer, each as [8 channels][row].
  __device__ void fetchKeys(int layer) {
    const int keys = SharedLayout::keyRows(p, sentences), count = sentences * p.source;
    const int64_t first = int64_t(cluster) * count;
    const int64_t all = int64_t(p.batch) * p.source;
    for (int i = threadIdx.x; i < 2 * 8 * count; i += kConsumers) {
      const int chunk = i % 8, which = i / 8 % 2, key = i / 16;
      if (first + key >= all) continue;
      const T* from = static_cast<const T*>(t.keysValues) + (first + key) * p.sourceStride +
                      int64_t(2 * layer + which) * sizes.channels + rank * kHeadWidth + chunk * 8;
      const uint32_t to = address(which == 0 ? at.keys : at.values) + (chunk * keys + key) * 16;
      copyAsync(to, from);
    }
    commitCopies();
  }

  /// Computes attention with queries from buffer `from`, and shares it into buffer `to`.
  __device__ void attend(const float* bias, int from, int to) {
    float sums[kOwn / 2];
    float biasOf[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      biasOf[half] = __ldg(bias + rank * kHeadWidth + ownRow(half));
    }
    stream.template multiply<kOwn, true>(*this, phases, sums, from, ownColumn(), p.heads);
#pragma unroll
    for (int j = 0; j < kOwn / 8; j += 2) {
      storeTiles(address(at.queries), ownRow(0) / 8, ownColumn() + j * 8, sums, j, biasOf);
    }
    waitForAllCopies();
    consumersSync();
    if (threadIdx.x / kWarpSize < kTokens / 16) attendTile(threadIdx.x / kWarpSize);
    exchange.share(*this, phases, to);
  }

  /// Adds the biases and writes two neighbouring pairs of tiles [2 * 8 channels, 2 * 8 positions],
  /// sums j and j + 1, to a buffer in shared memory.
  template <int kSums>
  __device__ void storeTiles(uint32_t buffer, int chunk, int token, const float (&sums)[kSums],
                             int j, const float (&bias)[2]) const {
    uint32_t tiles[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int from = (j + i / 2) * 4 + i % 2 * 2;
      tiles[i] = packFloats<T>(sums[from] + bias[i % 2], sums[from + 1] + bias[i % 2]);
    }
    const int tile = lane / 8;
    storeTransposed(
        buffer + (chunk + tile % 2) * kChunkBytes<kTokens> + (token + tile / 2 * 8 + lane % 8) * 16,
        tiles);
  }

  /// Computes attention for 16 positions with an online softmax.
  __device__ void attendTile(int tile) {
    const int keys = SharedLayout::keyRows(p, sentences);
    const int sentence = tile * 16 / p.length;  // each of several sentences has whole tiles
    unsigned char* out = exchange.slice(*this, phases);
    const bool exists = sentence < sentences && cluster * sentences + sentence < p.batch;
    const float* hidden = reinterpret_cast<const float*>(shared + at.hidden);
    const int matrix = lane / 8;
    uint32_t a[kHeadWidth / 16][4];
#pragma unroll
    for (int d = 0; d < kHeadWidth / 16; ++d) {
      loadTiles(a[d], address(at.queries) + (d * 2 + matrix / 2) * kChunkBytes<kTokens> +
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
        loadTiles(b, address(at.keys) + ((d * 2 + matrix % 2) * keys + key) * 16);
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
            // replaced, not added: all hidden positions get the same score
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
          packFloats<T>(scores[0][0], scores[0][1]), packFloats<T>(scores[0][2], scores[0][3]),
          packFloats<T>(scores[1][0], scores[1][1]), packFloats<T>(scores[1][2], scores[1][3])};
#pragma unroll
      for (int j = 0; j < kHeadWidth / 8; j += 2) {
        uint32_t b[4];
        const int key = min(base + matrix % 2 * 8 + lane % 8, keys - 1);
        loadTransposed(b, address(at.values) + ((j + matrix / 2) * keys + key) * 16);
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
        *reinterpret_cast<uint32_t*>(out + j * kChunkBytes<kTokens> + token * 16 + quad * 4) =
            packFloats<T>(sums[j][half * 2] * scale, sums[j][half * 2 + 1] * scale);
      }
    }
  }

  /// Computes the feed-forward part of buffer 0, then calls `normalise`. Its inner channels go to
  /// buffer 1. The other blocks send their partial sums to buffer 0.
  __device__ void feedForward(const float* innerBias, const float* bias, const float* scale,
                              const float* shift, const T* positions) {
    const Norm norm = loadNorm(bias, scale, shift);
    for (int pass = 0; pass < sizes.inner / 128; ++pass) {
      const int row = pass * 128 + warpgroup * 64 + warp * 16;  // within the block's inner channels
      const float biasOf[2] = {__ldg(innerBias + rank * sizes.inner + row + group),
                               __ldg(innerBias + rank * sizes.inner + row + 8 + group)};
      float sums[kTokens / 2];
      stream.template multiply<kTokens, false>(*this, phases, sums, 0, 0, p.heads);
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
    exchange.openPartials(*this);

    uint32_t pairs[kOwn / 4];
#pragma unroll
    for (int i = 0; i < kOwn / 4; ++i) {
      pairs[i] = positions == nullptr
                     ? 0
                     : loadPair(positions + times[i / 2] * sizes.channels + ownChannel(i % 2));
    }

    // The layout of the data that the blocks send: [sender][kTokens / 16][128 threads][16 bytes].
    for (int pass = 0; pass < p.heads / 2; ++pass) {
      float sums[kTokens / 2];
      stream.template multiply<kTokens, false, false>(*this, phases, sums, 1, 0, sizes.inner / 64);
      if (pass == 0) exchange.awaitOpen(*this, phases);
      const int receiver = pass * 2 + warpgroup;
      const int place = rank * kSliceBytes<kTokens> + threadIdx.x % 128 * 16;
      const auto to = exchange.receiver(*this, receiver, place);
#pragma unroll
      for (int i = 0; i < kTokens / 16; ++i) {
        const uint4 value{packFloats<T>(sums[i * 8], sums[i * 8 + 1]),
                          packFloats<T>(sums[i * 8 + 2], sums[i * 8 + 3]),
                          packFloats<T>(sums[i * 8 + 4], sums[i * 8 + 5]),
                          packFloats<T>(sums[i * 8 + 6], sums[i * 8 + 7])};
        to.store(i, value);
      }
    }

    exchange.awaitPartials(*this, phases);
    const unsigned char* mine = exchange.partials(*this);
    mine += ownColumn() / 16 * 2048 + threadIdx.x % 128 * 16;
    float sums[kOwn / 2] = {};
#pragma unroll 4
    for (int sender = 0; sender < p.heads; ++sender) {
#pragma unroll
      for (int i = 0; i < kOwn / 16; ++i) {
        const auto* from =
            reinterpret_cast<const uint4*>(mine + sender * kSliceBytes<kTokens> + i * 2048);
        const uint4 bits = Exchange::loadPartial(from);
        const Vector<T, 8> part = *reinterpret_cast<const Vector<T, 8>*>(&bits);
#pragma unroll
        for (int e = 0; e < 8; ++e) sums[i * 8 + e] += toFloat(part.item[e]);
      }
    }
    normalise(sums, norm, pairs);
  }

  /// Writes the residual to y, in the layout of x.
  __device__ void finish() {
    T* y = static_cast<T*>(t.y) + row0 * sizes.channels;
#pragma unroll
    for (int j = 0; j < kOwn / 8; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t flipped = transposeTile(
            packFloats<T>(residual[j * 4 + half * 2], residual[j * 4 + half * 2 + 1]));
        const int token = ownColumn() + j * 8 + group;
        if (token < rows) {
          *reinterpret_cast<uint32_t*>(y + int64_t(token) * sizes.channels + ownChannel(half)) =
              flipped;
        }
      }
    }
  }

  /// Runs all layers.
  __device__ void consume() {
    begin();
    for (int layer = 0; layer < p.layers; ++layer) {
      ConstantReader constants{*this, t.constants + layer * sizes.constants};
      if (p.source > 0) fetchKeys(layer);
      gated(constants.take<kLinear1Bias>(), 0, 1, t.mask != nullptr);
      gated(constants.take<kConvLinear1Bias>(), 1, 0, false);
      convolve(p.kernelSizes[layer], p.paddings[layer], 0, 1);
      const float* bias = constants.take<kLinear2Bias>();
      const float* scale = constants.take<kConvNormScale>();
      project(1, bias, scale, constants.take<kConvNormShift>());
      shareResidual(0);
      if (p.source > 0) {
        attend(constants.take<kQueryBias>(), 0, 1);
        const float* outBias = constants.take<kOutBias>();
        const float* outScale = constants.take<kAttentionNormScale>();
        project(1, outBias, outScale, constants.take<kAttentionNormShift>());
        shareResidual(0);
      } else {
        constants.skipAttention();
      }
      const bool last = layer + 1 == p.layers;
      const float* innerBias = constants.take<kFc1Bias>();
      const float* lastBias = constants.take<kFc2Bias>();
      const float* lastScale = constants.take<kFfnNormScale>();
      feedForward(innerBias, lastBias, lastScale, constants.take<kFfnNormShift>(),
                  last ? nullptr : static_cast<const T*>(t.positions));
      if (!last) shareResidual(0);
    }
    finish();
  }
};

}  // namespace lite::conv_stack
