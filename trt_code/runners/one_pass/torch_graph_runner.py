"""Eager PyTorch captured in a CUDA graph, a graph a shape: what one gets without any kernel of one's own.

The operators ``lite::`` take their CUDA form where ``make torch-ops`` has built it, here too.
"""

from typing import Any

import torch

from trt_code.runners.base import WARM_UP, Unavailable
from trt_code.runners.one_pass.torch_runner import TorchRunner, check_available


def create(model_files: Any, precision: str, device: str, **_: Any) -> "TorchGraphRunner":
    """Load the checkpoint and cast it; see ``trt_code.runners.create``."""
    check_available(precision, device)
    if device != "cuda":
        raise Unavailable("CUDA graphs need a CUDA GPU (make doctor)")
    return TorchGraphRunner(model_files, precision, device)


class TorchGraphRunner(TorchRunner):
    """Graphs are kept for every shape that was met; a rival for measurements, not for a server."""

    def __init__(self, model_files: Any, precision: str, device: str):
        super().__init__(model_files, precision, device, "torch-graph")
        self._graphs: dict[torch.Size, tuple] = {}

    def _forward(self, src_tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if src_tokens.shape not in self._graphs:
            self._graphs[src_tokens.shape] = self._capture(src_tokens)
        graph, inputs, outputs = self._graphs[src_tokens.shape]
        inputs.copy_(src_tokens)
        graph.replay()
        return outputs

    def _capture(self, src_tokens: torch.Tensor) -> tuple:
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
