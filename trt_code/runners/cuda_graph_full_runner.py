"""The CUDA-graph runner on the original's canvas, twice the source: equal work beside the rivals."""

from typing import Any

from trt_code.runners import cuda_graph_runner


def create(
    model_files: Any, precision: str, device: str, **options: Any
) -> cuda_graph_runner.CudaGraphRunner:
    """See ``trt_code.runners.create``."""
    options |= {"name": "cuda-graph-full", "canvas": "full"}
    return cuda_graph_runner.create(model_files, precision, device, **options)
