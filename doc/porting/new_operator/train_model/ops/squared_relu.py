"""Squared ReLU with an upper limit: ``y = min(max(x, 0)**2, limit)`` (So et al. 2021, arXiv 2109.08668)."""

import torch
from torch import Tensor


@torch.library.custom_op("lite::squared_relu", mutates_args=())
def squared_relu(x: Tensor, limit: float) -> Tensor:
    """Apply the function to every number of ``x``.

    Args:
        x: of any shape with at least one dimension, floating.
        limit: the largest result, positive.

    Raises:
        ValueError: ``x`` is not floating or has no dimension, or ``limit`` is not positive.
    """
    _check(x, limit)
    return x.float().clamp(min=0).square().clamp(max=limit).to(x.dtype)


@squared_relu.register_fake
def _(x: Tensor, limit: float) -> Tensor:
    _check(x, limit)
    return torch.empty_like(x)


def _check(x: Tensor, limit: float) -> None:
    if not x.is_floating_point() or x.dim() < 1:
        raise ValueError(
            f"squared_relu: x must be floating with a dimension; got {x.dtype}, {x.dim()}"
        )
    if not limit > 0:
        raise ValueError(f"squared_relu: limit={limit} is not positive")
