"""Matrices stored as INT8 rows with one FP32 scale each: half of FP16's bytes. Computation stays in FP32.

This is a file format; ``quantized`` has layers that compute in INT8.
"""

import torch
from torch import Tensor

SCALE = ".row_scale"
"""Suffix of the name of a matrix' scales."""
LEAST = 4096
"""The fewest entries of a matrix that is stored as INT8."""


def pack_rows(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Convert large matrices to INT8 with scales [rows, 1], other floating weights to FP16.

    Returns:
        The tensors, and for each name of a tensor that shares memory with an earlier one, the earlier name.
    """
    packed: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    names: dict[int, str] = {}
    for name, value in weights.items():
        first = names.setdefault(value.data_ptr(), name) if value.numel() else name
        if first != name:
            aliases[name] = first
        elif not value.is_floating_point():
            packed[name] = value
        elif value.dim() == 2 and value.numel() >= LEAST:
            scale = (value.float().abs().amax(1, keepdim=True) / 127).clamp(min=1e-30)
            packed[name] = (value / scale).round().clamp(-127, 127).to(torch.int8)
            packed[name + SCALE] = scale
        else:
            packed[name] = value.half()
    return packed, aliases


def unpack_rows(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the matrices of :func:`pack_rows` back to FP32; other weights do not change.

    Raises:
        ValueError: scales have no matrix, or another number of rows.
    """
    unpacked = {name: value for name, value in weights.items() if not name.endswith(SCALE)}
    for name in weights.keys() - unpacked.keys():
        matrix, scale = unpacked.get(name.removesuffix(SCALE)), weights[name]
        if matrix is None or scale.shape != (matrix.shape[0], 1):
            raise ValueError(f"{name} has no matrix of as many rows")
        unpacked[name.removesuffix(SCALE)] = matrix.float() * scale
    return unpacked
