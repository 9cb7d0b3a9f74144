"""Eager PyTorch captured in one CUDA graph per shape, for comparison with our kernels.

The ``lite::`` operators use their CUDA kernels here too if ``make torch-ops`` has built them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from trt_code.runners.base import WARM_UP
from trt_code.runners.one_pass.torch_runner import TorchRunner, checkpoint_of
from trt_code.runners.pytorch import PRECISIONS
from trt_code.runners.spec import Request, RunnerSpec

if TYPE_CHECKING:
    import torch


def create(request: Request) -> "TorchGraphRunner":
    """Load the checkpoint and cast it; see ``trt_code.runners.create``."""
    return TorchGraphRunner(checkpoint_of(request), request)


class TorchGraphRunner(TorchRunner):
    """Keeps a graph for every shape it has seen: for measurements, not for a server."""

    def __init__(self, checkpoint: Path, request: Request):
        super().__init__(checkpoint, request)
        self._graphs: dict[tuple[int, ...], tuple] = {}

    def _forward(self, src_tokens: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        if src_tokens.shape not in self._graphs:
            self._graphs[src_tokens.shape] = self._capture(src_tokens)
        graph, inputs, outputs = self._graphs[src_tokens.shape]
        inputs.copy_(src_tokens)
        graph.replay()
        return outputs

    def _capture(self, src_tokens: "torch.Tensor") -> tuple:
        import torch

        inputs, forward = src_tokens.clone(), super()._forward
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                forward(inputs)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            outputs = forward(inputs)
        return graph, inputs, outputs

    def close(self) -> None:
        self._graphs.clear()
        super().close()


RUNNERS = (RunnerSpec("torch-graph", create, {"cuda": PRECISIONS["cuda"]}, rival=True),)
