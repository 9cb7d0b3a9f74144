"""Exports a one-pass network to one ONNX file.

python -m onnx_export.export --checkpoint checkpoint.pt --output model.onnx
"""

from pathlib import Path

import onnx_ir as ir
import torch
from torch import nn

from onnx_export.graph import export_graph
from onnx_export.metadata import metadata
from onnx_export.onnx_file import save_onnx
from train_model.data.dictionary import UNK
from train_model.models.signatures import SRC_TOKENS, WHOLE
from train_model.progress import stage


def write(model: nn.Module, path: Path) -> list[Path]:
    """Write the file ``path`` and return it.

    Raises:
        UserError: the folder cannot be written to.
    """
    with stage(f"exporting {path}"):
        save_onnx(to_onnx(model), path)
    return [path]


def to_onnx(model: nn.Module) -> ir.Model:
    """Export the network.

    Returns:
        A graph of opset 20: ``src_tokens`` int64 [batch, src_len] to ``output_tokens`` int64 and
        ``output_scores`` float32, both [batch, canvas]; the metadata describes the network
        (configuration, special tokens, padding).
    """
    graph_model = export_graph(
        model.eval(), {SRC_TOKENS: torch.full((2, 7), UNK)}, WHOLE, model.config.axis_limits
    )
    for output in graph_model.graph.outputs:
        output.shape = ir.Shape([*WHOLE.outputs[output.name].values()])
    graph_model.metadata_props.update(metadata(model.config))
    return graph_model
