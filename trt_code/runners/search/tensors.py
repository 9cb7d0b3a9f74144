"""A search on PyTorch tensors, called with NumPy arrays."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from train_model.models.hypotheses import Found, SearchOptions


def on_device(
    search: Callable[[Tensor, SearchOptions], Found], device: str | torch.device
) -> Callable[[np.ndarray, SearchOptions], Found]:
    """Return ``search`` as a function of NumPy sources, which it copies to ``device``."""

    def call(src_tokens: np.ndarray, options: SearchOptions) -> Found:
        return search(torch.from_numpy(src_tokens).to(device), options)

    return call
