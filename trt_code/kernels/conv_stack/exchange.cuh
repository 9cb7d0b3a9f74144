// Data exchange between the blocks of a group: slices of a result, statistics of a norm, partial
// sums. The blocks of a cluster write into each other's shared memory. Groups that are not clusters
// exchange everything through global memory. Both classes have the same interface.
#pragma once

#include "../ptx/bulk_copy.cuh"
#include "../ptx/cluster.cuh"
#include "../ptx/mbarrier.cuh"
#include "layout.cuh"

namespace lite::conv_stack {

/// Merges the sums and squared deviations of kParts sets of kSize numbers each. The entries of a
/// set lie kTokens apart. If the number of sets is only known at run time, only the first `parts`
/// count.
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

/// Global memory of one group. A block first writes its slice of a result there, into two
/// alternating buffers. From there it goes to the shared memory of every block of the group. A
/// cluster does not use the other members.
template <int kTokens>
struct GroupMemory {
  unsigned char* slices;  // the slices that the blocks share, in two buffers
  uint32_t* counter;
  uint32_t target = 0;  // value that the counter must reach
  uint4* words;         // [block][position]: sum, norm number, squared deviations, norm number
  uint32_t norms = 0;
  unsigned char* sums;  // partial sums, [receiver][sender][slice]

  __device__ explicit GroupMemory(const Block& block) {
    auto* scratch = static_cast<unsigned char*>(block.t.scratch);
    const ScratchLayout of(block.p, kTokens, gridDim.x / block.p.heads);
    slices = scratch + of.slices + size_t(block.cluster) * 2 * of.buffer;
    counter = reinterpret_cast<uint32_t*>(scratch + block.cluster * kCounterBytes);
    words = reinterpret_cast<uint4*>(scratch + of.statistics) +
            size_t(block.cluster) * block.p.heads * kTokens;
    sums = scratch + of.partials + size_t(block.cluster) * block.p.heads * of.buffer;
  }

  /// Where this block writes its channels before it calls share().
  __device__ unsigned char* slice(const Block& block, const Phases& phases) const {
    return slices + (phases.shares & 1) * block.sizes.channels * kTokens * 2 +
           block.rank * kSliceBytes<kTokens>;
  }
};

/// The exchange within a cluster.
template <int kTokens>
struct ClusterExchange : GroupMemory<kTokens> {
  using GroupMemory<kTokens>::GroupMemory;

  /// Called before the first exchange. After it, the barriers of all blocks can be used.
  __device__ static void begin() { clusterSync(); }
  /// Called after the last exchange: no block may exit while another block still writes to it.
  __device__ static void end() { clusterSync(); }

  /// Sends this block's slice to every block's buffer.
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

  /// Sends this block's statistics of the parts, [4 warps][kTokens]. Returns those of all blocks.
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

  /// Lets the other blocks write their partial sums to buffer 0, which this block no longer reads.
  __device__ static void openPartials(const Block& block) {
    if (threadIdx.x < block.p.heads) {
      arriveRemote(remoteAddress(block.barrier(kFree), threadIdx.x));
    }
    if (threadIdx.x == 0) {
      arriveExpecting(block.barrier(kPartials), block.sizes.channels * kTokens * 2);
    }
  }
  /// Waits until all other blocks have opened their buffers.
  __device__ static void awaitOpen(const Block& block, Phases& phases) {
    phases.await(block, kFree);
  }

  /// Where this thread writes its partial sums for one block: 16 bytes every 2 KiB.
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

  /// Waits for all partial sums sent to this block, [sender][slice].
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

  /// Waits for all blocks of the group, and makes their writes to memory visible. This covers the
  /// first warp only; the other warps need a consumersSync afterwards.
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

  /// Each word carries the number of the norm. No block can be one norm ahead, because the
  /// residuals are shared between two norms.
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
