"""Chains of elementwise operations, which training on a GPU compiles into one kernel each.

A small network's time on a GPU is that of its elementwise operations: each of them reads and writes memory.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

_compiling = False


@contextlib.contextmanager
def compiled_chains() -> Iterator[None]:
    """Run the chains compiled by torch.compile inside of the context, if their tensors are on a GPU."""
    global _compiling
    before, _compiling = _compiling, True
    try:
        yield
    finally:
        _compiling = before


def chain(function: Callable) -> Callable:
    """Make ``function`` a chain; its first argument is a tensor."""
    compiled = functools.cache(lambda: torch.compile(function))

    @functools.wraps(function)
    def call(x: Tensor, *arguments):
        run = compiled() if _compiling and x.is_cuda else function
        return run(x, *arguments)

    return call


@chain
def residual_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """Normalise ``x`` [..., C] plus ``y`` after dropout."""
    return F.layer_norm(x + _drop(y, dropout), weight.shape, weight, bias)


@chain
def add_dropout(x: Tensor, y: Tensor, dropout: float) -> Tensor:
    """Return the sum after dropout."""
    return _drop(x + y, dropout)


@chain
def gate(x: Tensor) -> Tensor:
    """Gated linear unit [..., 2 C] -> [..., C]."""
    return F.glu(x, -1)


@chain
def zero_padding(x: Tensor, padding_mask: Tensor) -> Tensor:
    """Zero ``x`` [B, T, C] where the mask [B, T] is True."""
    return x.masked_fill(padding_mask[:, :, None], 0)


def _drop(x: Tensor, dropout: float) -> Tensor:
    return F.dropout(x, dropout) if dropout else x
