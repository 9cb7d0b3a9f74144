"""From ``conv_crf_transformer`` to two ONNX files: encoder with length prediction, and decoder.

A host runs the encoder, makes a canvas as wide as the longest predicted length, and gives it to the
decoder (``train_model/models/halves.py``). Batch, source length and the canvas's width are dynamic.

    python -m onnx_export.export --checkpoint checkpoint.pt --output model.onnx --split

writes ``model.encoder.onnx`` and ``model.decoder.onnx``.
"""

from pathlib import Path

import onnx_ir as ir
import torch

from onnx_export.graph import export_graph, metadata
from onnx_export.onnx_file import half_path, save_onnx
from train_model.models.conv_crf_transformer import UNK, ConvCrfTransformer
from train_model.models.halves import DecoderHalf, EncoderHalf

HALVES = ("encoder", "decoder")
ENCODER_INPUTS, ENCODER_OUTPUTS = ["src_tokens"], ["encoded", "lengths"]
DECODER_INPUTS = ["src_tokens", "encoded", "canvas"]
DECODER_OUTPUTS = ["output_tokens", "output_scores"]

_BATCH, _SOURCE, _CANVAS = 2, 7, 11  # of the example; all different, so that none is merged


def write(model: ConvCrfTransformer, path: Path) -> None:
    """Write both halves beside ``path``.

    Raises:
        UserError: the folder cannot be written to.
    """
    for half, to_onnx in zip(HALVES, (encoder_to_onnx, decoder_to_onnx), strict=True):
        save_onnx(to_onnx(model), half_path(path, half))


def encoder_to_onnx(model: ConvCrfTransformer) -> ir.Model:
    """``src_tokens`` int64 [batch, src_len] to ``encoded`` float32 [batch, src_len, C] and ``lengths``
    int64 [batch]."""
    graph_model = export_graph(
        EncoderHalf(model).eval(),
        {"src_tokens": torch.full((_BATCH, _SOURCE), UNK)},
        {"src_tokens": {0: "batch", 1: "src_len"}},
        ENCODER_OUTPUTS,
        limits={"src_len": model.config.max_source_positions},
    )
    return _described(graph_model, model, "encoder")


def decoder_to_onnx(model: ConvCrfTransformer) -> ir.Model:
    """``src_tokens``, ``encoded`` and ``canvas`` int64 [batch, canvas] to ``output_tokens`` int64 and
    ``output_scores`` float32, both [batch, canvas]."""
    graph_model = export_graph(
        DecoderHalf(model).eval(),
        {
            "src_tokens": torch.full((_BATCH, _SOURCE), UNK),
            "encoded": torch.zeros(_BATCH, _SOURCE, model.config.encoder_embed_dim),
            "canvas": torch.full((_BATCH, _CANVAS), UNK),
        },
        {
            "src_tokens": {0: "batch", 1: "src_len"},
            "encoded": {0: "batch", 1: "src_len"},
            "canvas": {0: "batch", 1: "canvas"},
        },
        DECODER_OUTPUTS,
        limits={
            "src_len": model.config.max_source_positions,
            "canvas": model.config.max_target_positions,
        },
    )
    return _described(graph_model, model, "decoder")


def _described(graph_model: ir.Model, model: ConvCrfTransformer, half: str) -> ir.Model:
    graph_model.metadata_props.update(metadata(model.config, "conv_crf_transformer"))
    graph_model.metadata_props["half"] = half
    return graph_model
