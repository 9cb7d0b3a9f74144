"""CUDA graphs, for a GPU without TensorRT: of our kernels and cuBLASLt where they fit, else of PyTorch's."""

import contextlib
import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from train_model.models.hypotheses import Found
from trt_code.runners.base import Output, Runner, Unavailable
from trt_code.runners.memory import AllocatorMemory
from trt_code.runners.one_pass.torch_runner import checkpoint_of
from trt_code.runners.pytorch import PRECISIONS, dtype_of, matmul_precision
from trt_code.runners.spec import Request, RunnerSpec

if TYPE_CHECKING:
    from torch import nn


FP8_CAPABILITY = (8, 9)


def create(request: Request, *, canvas: str) -> "CudaGraphRunner":
    """Load and fold the checkpoint; see ``trt_code.runners.create``.

    ``canvas`` is ``cut`` (decode as far as the longest predicted length) or ``full`` (twice the
    source, as the original does). FP8 uses the INT8 checkpoint (make ptq or make qat).
    """
    checkpoint = checkpoint_of(request)
    import torch

    from train_model.models.checkpoint import load_checkpoint
    from train_model.ops import cuda_library_path, load_cuda_library
    from trt_code.cuda_graph.network import why_not

    has_library = load_cuda_library()
    model = load_checkpoint(checkpoint).model
    reason = why_not(model)
    fused = reason is None
    if request.precision == "fp8":
        if not fused:
            raise Unavailable(f"FP8 is for the fused network: {reason}")
        if torch.cuda.get_device_capability() < FP8_CAPABILITY:
            raise Unavailable("FP8 needs a GPU of compute capability 8.9 or later")
    if fused and not has_library:
        raise Unavailable(f"{cuda_library_path()} is missing; build it with `make torch-ops`")
    return CudaGraphRunner(request, model, canvas, fused)


class CudaGraphRunner(Runner):
    """Casts the weights once; captures a graph at the first batch of each shape."""

    def __init__(self, request: Request, model: "nn.Module", canvas: str, fused: bool) -> None:
        """Make the graphs of ``model``.

        Args:
            fused: use our kernels for the whole network, instead of PyTorch's.
        """
        import torch

        from train_model.models.refinement import Refinement
        from trt_code.cuda_graph.graphs import GraphedNetwork
        from trt_code.cuda_graph.network import FusedNetwork
        from trt_code.cuda_graph.plain import PlainNetwork

        precision, config = request.precision, model.config
        super().__init__(request.name, precision, "cuda")
        self._memory = AllocatorMemory()
        self.config, self.max_source = config, config.max_source_positions
        device = torch.device("cuda", torch.cuda.current_device())
        dtype = dtype_of(precision)
        self._during: Callable[[], contextlib.AbstractContextManager[None]]
        if fused:
            tf32, fp8 = precision == "tf32", precision == "fp8"
            network = FusedNetwork(model, dtype, device, tf32, fp8)
            self._during = contextlib.nullcontext
        else:
            network = PlainNetwork(model, dtype, device)
            self._during = lambda: matmul_precision(precision, "cuda")
        refinement = Refinement.of(config.architecture, vars(config), request.max_iter)
        self._graphed = GraphedNetwork(network, device, canvas, refinement)

    def run(self, src_tokens: np.ndarray) -> Output:
        with self._during():
            return Output(*self._graphed(src_tokens))

    def twin(self) -> "CudaGraphRunner":
        twin = copy.copy(self)
        twin._graphed = self._graphed.twin()
        return twin

    def _several(self, src_tokens: np.ndarray, count: int) -> Found:
        with self._during():
            return self._graphed.candidates(src_tokens, count)

    def _device_ms(self, src_tokens: np.ndarray, repeats: int) -> list[float]:
        with self._during():
            return self._graphed.device_ms(src_tokens, repeats)

    def peak_memory(self) -> int:
        return self._memory.peak()

    def close(self) -> None:
        import torch

        self._graphed = None
        torch.cuda.empty_cache()


RUNNERS = (
    RunnerSpec(
        "cuda-graph",
        create,
        {"cuda": (*PRECISIONS["cuda"], "fp8")},
        families=("one-pass", "iterative"),
        cuts_canvas=True,
        n_best=True,
        options={"canvas": "cut"},
    ),
    RunnerSpec(
        "cuda-graph-full",
        create,
        {"cuda": (*PRECISIONS["cuda"], "fp8")},
        rival=True,
        options={"canvas": "full"},
    ),
)
