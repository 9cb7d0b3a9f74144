"""Weights in the order in which the kernel in ``trt_code/kernels/conv_stack`` reads them.

Each of the kernel's blocks owns a head of 64 channels. Its weights are one stream of stages of 16 KiB, two
tiles of 64 outputs x 64 inputs each. A tile is 8 groups of 8 inputs, a group 64 rows of 8 contiguous
numbers. A product of several tiles of outputs takes two of them side by side along the inputs.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

TILE = 64
STAGE = 2 * TILE * TILE  # numbers
MAX_TAPS = 16
ORDER = ("linear1", "conv_linear1", "taps", "linear2", "query", "out", "fc1", "fc2")


@dataclasses.dataclass(frozen=True)
class LayerWeights:
    """The matrices of one layer, [outputs, inputs] each. An encoder layer has no query and no out."""

    linear1: Tensor
    conv_linear1: Tensor
    taps: Tensor
    linear2: Tensor
    fc1: Tensor
    fc2: Tensor
    query: Tensor | None = None
    out: Tensor | None = None

    @property
    def order(self) -> list[str]:
        """The names of the matrices in the order in which ``pack`` writes them."""
        return [name for name in ORDER if getattr(self, name) is not None]


def pack(layers: Sequence[LayerWeights], heads: int) -> Tensor:
    """The streams of all layers and heads, [layers, heads, numbers]."""
    return torch.stack(
        [torch.stack([_stream(layer, heads, i) for i in range(heads)]) for layer in layers]
    )


def _stream(layer: LayerWeights, heads: int, head: int) -> Tensor:
    def own(weight: Tensor, dim: int = 0) -> Tensor:
        return weight.chunk(heads, dim)[head]

    packed = {
        "linear1": lambda x: _product(own(_gates_next_to_values(x))),
        "conv_linear1": lambda x: _product(own(_gates_next_to_values(x))),
        "taps": lambda x: _taps(own(x)),
        "fc2": lambda x: _product(own(x, 1)),
    }
    whole = lambda x: _product(own(x))  # noqa: E731
    return torch.cat([packed.get(name, whole)(getattr(layer, name)) for name in layer.order])


def _product(weight: Tensor) -> Tensor:
    tiles = weight.unflatten(1, (-1, 8, 8)).unflatten(0, (-1, TILE)).permute(0, 2, 3, 1, 4)
    if len(tiles) > 1:
        tiles = tiles.unflatten(0, (-1, 2)).transpose(1, 2)
    return tiles.flatten()


def _gates_next_to_values(weight: Tensor) -> Tensor:
    """Eight values' rows, their eight gates' rows, and so on: one thread then holds both."""
    return weight.unflatten(0, (2, -1, 8)).transpose(0, 1).flatten(0, 2)


def _taps(weight: Tensor) -> Tensor:
    """A head's taps as the fragments of mma.m16n8k16, one stage."""
    rows = F.pad(weight, (0, 0, 0, MAX_TAPS - len(weight)))
    # row = 8 * half + group, input = 16 * step + 8 * side + 2 * quad + element
    fragments = rows.unflatten(1, (-1, 2, 4, 2)).unflatten(0, (2, 8)).permute(2, 1, 4, 3, 0, 5)
    return F.pad(fragments.flatten(), (0, STAGE - rows.numel()))
