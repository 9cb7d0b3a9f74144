"""Exports an autoregressive network to two ONNX files: the encoder, and one step of the decoder.

The step's state is explicit: the output ``next.<name>`` of one call is the input ``<name>`` of the next
call. A host drives both, see ``train_model/models/incremental.py``. Batch, beam, source length and
the room for target tokens are dynamic.

    python -m onnx_export.export --checkpoint checkpoint.pt --output model.onnx

writes ``model.encoder.onnx`` and ``model.onnx``, the step.
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
from train_model.models.incremental import DecoderStep, SourceEncoder
from train_model.models.signatures import SRC_TOKENS, search_encoder, search_step
from train_model.progress import stage

_BATCH, _BEAM, _SOURCE, _ROOM = 2, 3, 7, 11  # of the example; all different, so that none is merged


def write(model: nn.Module, path: Path) -> list[Path]:
    """Write the step to ``path`` and the encoder next to it; return both, in that order.

    Raises:
        UserError: the folder cannot be written to.
    """
    made = {}
    for file, to_onnx in ((half_path(path, "encoder"), encoder_to_onnx), (path, step_to_onnx)):
        with stage(f"exporting {file}"):
            made[file] = to_onnx(model)
    save_pair(made)
    return [path, half_path(path, "encoder")]


def encoder_to_onnx(model: nn.Module) -> ir.Model:
    """``src_tokens`` int64 [batch, src_len] to ``source.padding_mask`` bool [batch, src_len] and, for each
    decoder layer, ``source.<layer>.key`` and ``.value`` [batch, heads, src_len, channels]."""
    config = model.config
    graph_model = export_graph(
        SourceEncoder(model).eval(),
        {SRC_TOKENS: torch.full((_BATCH, _SOURCE), UNK)},
        search_encoder(config.decoder_layers),
        config.axis_limits,
    )
    graph_model.metadata_props.update(metadata(config) | {"half": "encoder"})
    return graph_model


def step_to_onnx(model: nn.Module) -> ir.Model:
    """One step.

    Inputs: ``tokens`` and ``parents`` int64 [batch, beam], ``position`` int64 [], the encoder's outputs,
    and the state by name, [rows, ...] with rows = batch * beam; keys and values have room for ``room``
    tokens, which must be more than ``position``. Outputs: ``logprobs`` float32 [batch, beam, vocabulary]
    and the new state, each name behind ``next.``.
    """
    encoder, step = SourceEncoder(model).eval(), DecoderStep(model).eval()
    with torch.inference_mode():
        source = encoder(torch.full((_BATCH, _SOURCE), UNK))
    layers = model.config.decoder_layers
    names = search_encoder(layers).outputs
    sources = {name: tensor.clone() for name, tensor in zip(names, source, strict=True)}
    shapes = model.decoder.state_shapes(_BATCH * _BEAM, _ROOM)
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    tokens = torch.zeros(_BATCH, _BEAM, dtype=torch.int64)
    graph_model = export_graph(
        step,
        {
            "tokens": tokens,
            "parents": tokens.clone(),
            "position": torch.tensor(0),
            "source": sources,
            "state": state,
        },
        search_step(layers, {name: len(shape) for name, shape in shapes.items()}),
        model.config.axis_limits,
    )
    graph_model.metadata_props.update(metadata(model.config) | {"half": "step"})
    return graph_model
