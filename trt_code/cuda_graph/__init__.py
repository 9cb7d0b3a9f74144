"""The network on a GPU without TensorRT: our kernels and cuBLASLt, captured in CUDA graphs."""
