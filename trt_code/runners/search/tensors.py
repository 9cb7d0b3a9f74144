"""Runners of a search on PyTorch tensors, which are called with NumPy arrays."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from train_model.models.hypotheses import Found, SearchOptions
from trt_code.runners.memory import AllocatorMemory, ResidentMemory
from trt_code.runners.pytorch import matmul_precision
from trt_code.runners.search import SearchRunner
from trt_code.runners.spec import Request

TensorSearch = Callable[[Tensor, SearchOptions], Found]


def on_device(
    search: TensorSearch, device: str | torch.device
) -> Callable[[np.ndarray, SearchOptions], Found]:
    """Return ``search`` as a function of NumPy sources, which it copies to ``device``."""

    def call(src_tokens: np.ndarray, options: SearchOptions) -> Found:
        return search(torch.from_numpy(src_tokens).to(device), options)

    return call


def runner_of(
    request: Request,
    model: nn.Module,
    search: TensorSearch,
    memory: AllocatorMemory | ResidentMemory,
) -> SearchRunner:
    """Return the runner of ``search``, which runs the autoregressive ``model`` in PyTorch.

    Args:
        request: precision and device of the runner.
        model: the network, already on the device.
        search: takes sources [B, S] int64 on the device.
        memory: what measures the memory.
    """
    runner = SearchRunner(
        request,
        on_device(search, request.device),
        model.config.max_source_positions,
        memory.peak,
        during=lambda: matmul_precision(request.precision, request.device),
    )
    runner.config = model.config
    return runner
