"""Weights in the order in which ``trt_code/kernels/conv_stack.cu`` reads them.

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


@dataclasses.dataclass(frozen=True)
class LayerWeights:
    """The matrices of one layer, [outputs, inputs] each; the encoder's have no attention."""

    linear1: Tensor
    conv_linear1: Tensor
    taps: Tensor
    linear2: Tensor
    fc1: Tensor
    fc2: Tensor
    query: Tensor | None = None
    out: Tensor | None = None


def pack(layers: Sequence[LayerWeights], heads: int) -> Tensor:
    """The streams of all layers and heads, [layers, heads, numbers]."""
    return torch.stack(
        [torch.stack([_stream(layer, heads, i) for i in range(heads)]) for layer in layers]
    )


def _stream(layer: LayerWeights, heads: int, head: int) -> Tensor:
    def own(weight: Tensor, dim: int = 0) -> Tensor:
        return weight.chunk(heads, dim)[head]

    parts = [
        _product(own(_gates_beside_values(layer.linear1))),
        _product(own(_gates_beside_values(layer.conv_linear1))),
        _taps(own(layer.taps)),
        _product(own(layer.linear2)),
    ]
    if layer.query is not None and layer.out is not None:
        parts += [_product(own(layer.query)), _product(own(layer.out))]
    parts += [_product(own(layer.fc1)), _product(own(layer.fc2, 1))]
    return torch.cat(parts)


def _product(weight: Tensor) -> Tensor:
    tiles = weight.unflatten(1, (-1, 8, 8)).unflatten(0, (-1, TILE)).permute(0, 2, 3, 1, 4)
    if len(tiles) > 1:
        tiles = tiles.unflatten(0, (-1, 2)).transpose(1, 2)
    return tiles.flatten()


def _gates_beside_values(weight: Tensor) -> Tensor:
    """Eight values' rows, their eight gates' rows, and so on: one thread then holds both."""
    return weight.unflatten(0, (2, -1, 8)).transpose(0, 1).flatten(0, 2)


def _taps(weight: Tensor) -> Tensor:
    """A head's taps as the fragments of mma.m16n8k16, one stage."""
    rows = F.pad(weight, (0, 0, 0, MAX_TAPS - len(weight)))
    # row = 8 * half + group, input = 16 * step + 8 * side + 2 * quad + element
    fragments = rows.unflatten(1, (-1, 2, 4, 2)).unflatten(0, (2, 8)).permute(2, 1, 4, 3, 0, 5)
    return F.pad(fragments.flatten(), (0, STAGE - rows.numel()))
