// Exchange between the blocks of a group: slices of a result, statistics of a norm, partial sums.
// The blocks of a cluster write into each other's shared memory; those of a group that is not a
// cluster exchange everything through global memory. Both have the same interface.
#pragma once

#include "../ptx/bulk_copy.cuh"
#include "../ptx/cluster.cuh"
#include "../ptx/mbarrier.cuh"
#include "layout.cuh"

namespace lite::conv_stack {

/// Sum and squared deviations of kParts sets of kSize numbers; a set's lie kTokens apart. Of a
/// number of sets that is known only here, the first `parts` count.
template <int kTokens, int kParts, int kSize>
__device__ float2 merge(const float2* from, int parts, float inverseCount) {
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

/// Global memory of one group. A block's slice of a result goes there first, in two buffers by
/// turns, and from there to the shared memory of every block of the group. A cluster has no need of
/// the other members.
template <int kTokens>
struct GroupMemory {
  unsigned char* slices;  // what the blocks share, twice
  uint32_t* counter;
  uint32_t target = 0;  // of the counter
  uint4* words;  // [block][position]: a sum, the norm's number, squared deviations, the number
  uint32_t norms = 0;
  unsigned char* sums;  // partial ones, [receiver][sender][a slice]

  __device__ explicit GroupMemory(const Block& block) {
    auto* scratch = static_cast<unsigned char*>(block.t.scratch);
    const ScratchLayout of(block.p, kTokens, gridDim.x / block.p.heads);
    slices = scratch + of.slices + size_t(block.cluster) * 2 * of.buffer;
    counter = reinterpret_cast<uint32_t*>(scratch + block.cluster * kCounterBytes);
    words = reinterpret_cast<uint4*>(scratch + of.statistics) +
            size_t(block.cluster) * block.p.heads * kTokens;
    sums = scratch + of.partials + size_t(block.cluster) * block.p.heads * of.buffer;
  }

  /// Where this block's channels go before share().
  __device__ unsigned char* slice(const Block& block, const Phases& phases) const {
    return slices + (phases.shares & 1) * block.sizes.channels * kTokens * 2 +
           block.rank * kSliceBytes<kTokens>;
  }
};

/// The exchange within a cluster.
template <int kTokens>
struct ClusterExchange : GroupMemory<kTokens> {
  using GroupMemory<kTokens>::GroupMemory;

  /// Before the first exchange: the barriers of all blocks can be used.
  __device__ static void begin() { clusterSync(); }
  /// After the last exchange: no block may end while another still writes to it.
  __device__ static void end() { clusterSync(); }

  /// Send this block's slice to every block's buffer.
  __device__ void share(const Block& block, Phases& phases, int buffer) {
    const uint32_t to = block.address(block.at.buffers[buffer]);
    fenceGlobal();
    Block::consumersSync();
    if (threadIdx.x == 0) {
      bulkLoadToAll(to + block.rank * kSliceBytes<kTokens>, this->slice(block, phases),
                    kSliceBytes<kTokens>, block.gather(buffer, block.rank),
                    uint16_t((1 << block.p.heads) - 1));
    }
    if (threadIdx.x < block.p.heads) {
      const int sender = threadIdx.x;
      arriveExpecting(block.gather(buffer, sender), kSliceBytes<kTokens>);
    }
    phases.shared(buffer);
  }

  /// Send this block's statistics of the parts, [4 warps][kTokens]; gives those of all blocks.
  __device__ const float2* statistics(const Block& block, Phases& phases, const float2* parts) {
    if (threadIdx.x == 0) {
      arriveExpecting(block.barrier(kStatistics), block.p.heads * kTokens * sizeof(float2));
    }
    for (int i = threadIdx.x; i < block.p.heads * kTokens; i += kConsumers) {
      const int receiver = i / kTokens, token = i % kTokens;
      const float2 both = merge<kTokens, 4, 16>(parts + token, 4, 1.0f / kHeadWidth);
      const uint32_t to =
          block.address(block.at.statistics + (block.rank * kTokens + token) * sizeof(float2));
      storeRemote(remoteAddress(to, receiver), both,
                  remoteAddress(block.barrier(kStatistics), receiver));
    }
    phases.await(block, kStatistics);
    return reinterpret_cast<const float2*>(block.shared + block.at.statistics);
  }

  /// Let the others write their partial sums to buffer 0, which this block reads no more.
  __device__ static void openPartials(const Block& block) {
    if (threadIdx.x < block.p.heads) {
      arriveRemote(remoteAddress(block.barrier(kFree), threadIdx.x));
    }
    if (threadIdx.x == 0) {
      arriveExpecting(block.barrier(kPartials), block.sizes.channels * kTokens * 2);
    }
  }
  /// Wait until all others have opened theirs.
  __device__ static void awaitOpen(const Block& block, Phases& phases) {
    phases.await(block, kFree);
  }

  /// Where this thread's partial sums for one block go, 16 bytes every 2 KiB.
  struct Receiver {
    uint32_t to, counted;
    __device__ void store(int i, const uint4& value) const {
      storeRemote(to + i * 2048, value, counted);
    }
  };
  __device__ static Receiver receiver(const Block& block, int rank, int place) {
    return {remoteAddress(block.address(block.at.buffers[0] + place), rank),
            remoteAddress(block.barrier(kPartials), rank)};
  }

  /// Wait for all partial sums for this block, [sender][a slice].
  __device__ static void awaitPartials(const Block& block, Phases& phases) {
    phases.await(block, kPartials);
  }
  __device__ static const unsigned char* partials(const Block& block) {
    return block.shared + block.at.buffers[0];
  }
  __device__ static uint4 loadPartial(const uint4* from) { return *from; }
};

/// The exchange through global memory.
template <int kTokens>
struct MemoryExchange : GroupMemory<kTokens> {
  using GroupMemory<kTokens>::GroupMemory;

  __device__ static void begin() { __syncthreads(); }
  __device__ static void end() {}

  /// Wait for all blocks of the group, and see what they wrote to memory. What follows is for the
  /// first warp; the others need another consumersSync.
  __device__ void meet(const Block& block) {
    Block::consumersSync();
    if (threadIdx.x == 0) {
      this->target += block.p.heads;
      releaseOne(this->counter);
      uint32_t arrived;
      do {
        arrived = acquire(this->counter);
      } while (arrived < this->target);
    }
    __syncwarp();
  }

  __device__ void share(const Block& block, Phases& phases, int buffer) {
    const uint32_t to = block.address(block.at.buffers[buffer]);
    meet(block);
    if (threadIdx.x < block.p.heads) {
      const int sender = threadIdx.x;
      arriveExpecting(block.gather(buffer, sender), kSliceBytes<kTokens>);
      fenceGlobal();
      bulkLoad(to + sender * kSliceBytes<kTokens>,
               this->slice(block, phases) + (sender - block.rank) * kSliceBytes<kTokens>,
               kSliceBytes<kTokens>, block.gather(buffer, sender));
    }
    phases.shared(buffer);
  }

  /// The words come with the norm's number. Nobody is a norm ahead: residuals are shared in
  /// between.
  __device__ const float2* statistics(const Block& block, Phases&, const float2* parts) {
    auto* all = reinterpret_cast<float2*>(block.shared + block.at.statistics);
    const uint32_t norm = ++this->norms;
    if (threadIdx.x < kTokens) {
      const float2 both = merge<kTokens, 4, 16>(parts + threadIdx.x, 4, 1.0f / kHeadWidth);
      storeWords(this->words + block.rank * kTokens + threadIdx.x,
                 {__float_as_uint(both.x), norm, __float_as_uint(both.y), norm});
    }
    constexpr int kEach = kMaxHeads * kTokens / kConsumers;
    const int count = block.p.heads * kTokens;
    uint4 found[kEach];
    bool complete;
    do {
      complete = true;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int entry = i * kConsumers + threadIdx.x;
        if (entry < count) found[i] = loadWords(this->words + entry);
      }
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int entry = i * kConsumers + threadIdx.x;
        complete &= entry >= count || (found[i].y == norm && found[i].w == norm);
      }
    } while (!complete);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int entry = i * kConsumers + threadIdx.x;
      if (entry < count) {
        all[entry] = make_float2(__uint_as_float(found[i].x), __uint_as_float(found[i].z));
      }
    }
    Block::consumersSync();
    return all;
  }

  __device__ static void openPartials(const Block&) {}
  __device__ static void awaitOpen(const Block&, Phases&) {}

  struct Receiver {
    const MemoryExchange& exchange;
    const Block& block;
    int rank, place;
    __device__ void store(int i, const uint4& value) const {
      __stcg(reinterpret_cast<uint4*>(exchange.sums + rank * block.p.heads * kSliceBytes<kTokens> +
                                      place + i * 2048),
             value);
    }
  };
  __device__ Receiver receiver(const Block& block, int rank, int place) const {
    return {*this, block, rank, place};
  }

  __device__ void awaitPartials(const Block& block, Phases&) {
    meet(block);
    Block::consumersSync();
  }
  __device__ const unsigned char* partials(const Block& block) const {
    return this->sums + block.rank * block.p.heads * kSliceBytes<kTokens>;
  }
  __device__ static uint4 loadPartial(const uint4* from) { return __ldcg(from); }
};

}  // namespace lite::conv_stack
