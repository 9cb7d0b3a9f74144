"""Matrices stored as INT8 rows with one FP32 scale each: half of FP16's bytes. Computation stays in FP32.

This is a form of files, not of networks: ``quantized`` has layers that compute in INT8.
"""

import torch
from torch import Tensor

SCALE = ".row_scale"
"""Ends the name of a matrix' scales, which lie next to it in the file."""
LEAST = 4096
"""Entries of a matrix from which on it is stored so."""


def pack_rows(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Large matrices become INT8 with scales [rows, 1], other floating weights FP16.

    Returns:
        The tensors, and for each name whose tensor shares its memory with an earlier one, that one's name.
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
    """Weights with the matrices of :func:`pack_rows` in FP32; others stay as they are.

    Raises:
        ValueError: scales without a matrix, or with another number of rows.
    """
    unpacked = {name: value for name, value in weights.items() if not name.endswith(SCALE)}
    for name in weights.keys() - unpacked.keys():
        matrix, scale = unpacked.get(name.removesuffix(SCALE)), weights[name]
        if matrix is None or scale.shape != (matrix.shape[0], 1):
            raise ValueError(f"{name} has no matrix of as many rows")
        unpacked[name.removesuffix(SCALE)] = matrix.float() * scale
    return unpacked
