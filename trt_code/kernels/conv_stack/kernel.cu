// Sentences do not interact inside the network. So a cluster of blocks takes one sentence (or
// several short ones, 64 positions at most) through all layers without an exchange with other
// clusters. Each block owns one head: its 64 channels of every result, and its share of the inner
// channels.
//
//   - The weights of all layers form one long stream, packed in the order of use. The bulk engine
//     copies it into a ring of 16 KiB stages and runs ahead of the computation (weights.cuh).
//   - Products are W x^T on the warpgroups' matrix units: 64 outputs x the cluster's positions.
//   - If the next product needs the whole of a result, every block writes its channels to memory
//     and sends them from there to all blocks of the cluster at once (multicast). Two buffers
//     alternate. A block computes a result from one buffer. It sends this result only after it has
//     received every block's part of that buffer. So when the data arrives in the other buffer, no
//     block reads the other buffer any more (exchange.cuh).
//   - Convolution and attention only need the block's own head (steps.cuh).
//   - The last product sums over all inner channels, which are divided among the blocks. The blocks
//     exchange 16-bit partial sums and write them directly into each other's shared memory.
//   - For LayerNorm, the blocks exchange sums and squared deviations of their channels. The
//     residual stays in registers, in FP32.
//
// A cluster must lie within one part of the chip, so an H100 with 132 multiprocessors may offer 15
// clusters of 8 instead of 16. If there are not enough clusters, the blocks that share sentences
// form a group without a cluster: they synchronise with counters in memory and exchange everything
// through memory.
//
// A fence for both kinds of memory, or an acquire for the whole cluster, is expensive here: the
// thread then waits until its writes are in L2, or the multiprocessor's cache is emptied.
// doc/cuda_graphs.md lists the versions that were measured.
#include "kernel.cuh"
#include "steps.cuh"

namespace lite::conv_stack {
namespace {

template <typename T, int kTokens, template <int> typename Exchange>
__global__ void __launch_bounds__(kThreads, 1)
    convStackKernel(const __grid_constant__ ConvStackParams p, ConvStackTensors t, int stages,
                    int sentences) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) unsigned char shared[];
  Worker<T, kTokens, Exchange<kTokens>> worker(p, t, stages, sentences, shared);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kBarriers; ++i) {
      initBarrier(worker.barrier(i), i == kFree ? p.heads : 1);
    }
    for (int s = 0; s < stages; ++s) {
      initBarrier(worker.full(s), 1);
      initBarrier(worker.empty(s), kConsumers / kWarpSize);
    }
    publishBarriers();
  }
  worker.exchange.begin();
  if (threadIdx.x < kConsumers) {
    worker.consume();
  } else if (threadIdx.x == kConsumers) {
    worker.stream.produce(worker);
  }
  __syncwarp();
  worker.exchange.end();
#endif
}

template <typename T>
Kernel kernelOf(int tokens, bool clustered) {
  if (!clustered) return convStackKernel<T, kMaxTokens, MemoryExchange>;
  return tokens == 32 ? convStackKernel<T, 32, ClusterExchange>
                      : convStackKernel<T, kMaxTokens, ClusterExchange>;
}

}  // namespace

Kernel kernelOf(DataType dtype, int tokens, bool clustered) {
  return dtype == DataType::kHalf ? kernelOf<__half>(tokens, clustered)
                                  : kernelOf<__nv_bfloat16>(tokens, clustered);
}

}  // namespace lite::conv_stack
