"""Exports a network to two ONNX files: encoder with length prediction, and decoder.

A host runs the encoder, makes a canvas as wide as the longest predicted length, and gives it to the
decoder (``train_model/models/split.py``). Batch, source length and the canvas's width are dynamic.

    python -m onnx_export.export --checkpoint checkpoint.pt --output model.onnx --split

writes ``model.encoder.onnx`` and ``model.decoder.onnx`` of a one-pass network. An iterative network is always
two files, ``model.encoder.onnx`` and ``model.onnx``: one pass of the decoder, for the loop of
``train_model/models/refinement.py``.
"""

from pathlib import Path

import onnx_ir as ir
import torch
from torch import nn

from onnx_export.graph import export_graph
from onnx_export.metadata import metadata
from onnx_export.onnx_file import save_pair
from onnx_export.paths import half_path
from train_model.data.dictionary import UNK
from train_model.models.signatures import SPLIT, SRC_TOKENS
from train_model.models.split import SplitDecoder, SplitEncoder
from train_model.progress import stage

_BATCH, _SOURCE, _CANVAS = 2, 7, 11  # of the example; all different, so that none is merged


def write(model: nn.Module, path: Path) -> list[Path]:
    """Write both halves next to ``path`` and return their paths.

    Raises:
        UserError: the folder cannot be written to.
    """
    return _write(model, [half_path(path, half) for half in SPLIT])


def write_pass(model: nn.Module, path: Path) -> list[Path]:
    """Write the decoder of an iterative network to ``path`` and the encoder next to it; return both.

    Raises:
        UserError: the folder cannot be written to.
    """
    return _write(model, [half_path(path, "encoder"), path])[::-1]


def _write(model: nn.Module, paths: list[Path]) -> list[Path]:
    halves = {}
    for path, to_onnx in zip(paths, (encoder_to_onnx, decoder_to_onnx), strict=True):
        with stage(f"exporting {path}"):
            halves[path] = to_onnx(model)
    save_pair(halves)
    return paths


def encoder_to_onnx(model: nn.Module) -> ir.Model:
    """``src_tokens`` int64 [batch, src_len] to ``encoded`` float32 [batch, src_len, C] and ``lengths``
    int64 [batch]."""
    graph_model = export_graph(
        SplitEncoder(model).eval(),
        {SRC_TOKENS: torch.full((_BATCH, _SOURCE), UNK)},
        SPLIT["encoder"],
        model.config.axis_limits,
    )
    return _described(graph_model, model, "encoder")


def decoder_to_onnx(model: nn.Module) -> ir.Model:
    """``src_tokens``, ``encoded`` and ``canvas`` int64 [batch, canvas] to ``output_tokens`` int64 and
    ``output_scores`` float32, both [batch, canvas]."""
    graph_model = export_graph(
        SplitDecoder(model).eval(),
        {
            SRC_TOKENS: torch.full((_BATCH, _SOURCE), UNK),
            "encoded": torch.zeros(_BATCH, _SOURCE, model.config.encoder_embed_dim),
            "canvas": torch.full((_BATCH, _CANVAS), UNK),
        },
        SPLIT["decoder"],
        model.config.axis_limits,
    )
    return _described(graph_model, model, "decoder")


def _described(graph_model: ir.Model, model: nn.Module, half: str) -> ir.Model:
    graph_model.metadata_props.update(metadata(model.config))
    graph_model.metadata_props["half"] = half
    return graph_model
