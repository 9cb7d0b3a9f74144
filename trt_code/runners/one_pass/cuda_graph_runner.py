"""The folded network in our kernels and cuBLASLt, captured in CUDA graphs: a GPU without TensorRT."""

from typing import Any

import numpy as np
import torch

from train_model.models.checkpoint import load_checkpoint
from train_model.models.conv_crf_transformer import ConvCrfTransformer
from train_model.ops import cuda_library_path, load_cuda_library
from trt_code.cuda_graph.graphs import GraphedNetwork
from trt_code.cuda_graph.network import FusedNetwork, why_not
from trt_code.runners.base import Output, Runner, Unavailable

_DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
# The fused network of each architecture that has one.
FUSED = {"conv_crf_transformer": FusedNetwork}


def create(
    model_files: Any,
    precision: str,
    device: str,
    *,
    name: str = "cuda-graph",
    canvas: str = "cut",
    **_: Any,
) -> "CudaGraphRunner":
    """Load and fold the checkpoint; see ``trt_code.runners.create``.

    ``canvas`` is ``cut`` (decode as far as the longest predicted length) or ``full`` (twice the
    source, as the original does).
    """
    if device != "cuda" or not torch.cuda.is_available():
        raise Unavailable("CUDA graphs need a CUDA GPU (make doctor)")
    if precision not in _DTYPES:
        raise Unavailable(f"the fused kernels run {', '.join(_DTYPES)}, not {precision}")
    if not load_cuda_library():
        raise Unavailable(f"{cuda_library_path()} is missing; build it with `make torch-ops`")
    loaded = load_checkpoint(model_files.checkpoint)
    if loaded.kind not in FUSED:
        raise Unavailable(f"fused kernels run {', '.join(FUSED)}, and the model is {loaded.kind}")
    if reason := why_not(loaded.model):
        raise Unavailable(reason)
    return CudaGraphRunner(name, loaded.model, precision, canvas)


class CudaGraphRunner(Runner):
    """Weights are cast once; graphs are captured as shapes are met."""

    def __init__(self, name: str, model: ConvCrfTransformer, precision: str, canvas: str) -> None:
        super().__init__(name, precision, "cuda")
        self._held_before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self.config, self.max_source = model.config, model.config.max_source_positions
        device = torch.device("cuda", torch.cuda.current_device())
        fused = FUSED[model.config.architecture]
        network = fused(model, _DTYPES[precision], device, tf32=precision == "tf32")
        self._graphed = GraphedNetwork(network, device, canvas)

    def run(self, src_tokens: np.ndarray) -> Output:
        return Output(*self._graphed(src_tokens))

    def _device_ms(self, src_tokens: np.ndarray, repeats: int) -> list[float]:
        return self._graphed.device_ms(src_tokens, repeats)

    def peak_memory(self) -> int:
        return torch.cuda.max_memory_allocated() - self._held_before

    def close(self) -> None:
        self._graphed = None
        torch.cuda.empty_cache()
