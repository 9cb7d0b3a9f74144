"""From a checkpoint to one ONNX file with dynamic batch and length.

The project's operators stay one node each, in the domain ``lite``; a model-local function beside each
lets any ONNX runtime run the file without a library of ours.

    python -m onnx_export.export --checkpoint checkpoint.pt --output model.onnx

``--split`` writes two files, which decode no further than the translations reach; see
``onnx_export/export_split.py``. An autoregressive network always becomes two files, see
``onnx_export/export_ar.py``.
"""

import argparse
from pathlib import Path

import onnx_ir as ir
import torch

from onnx_export import export_ar, export_split
from onnx_export.graph import export_graph, metadata
from onnx_export.onnx_file import half_path, save_onnx
from train_model.cli import Parser, UserError, run
from train_model.models.checkpoint import load_checkpoint
from train_model.models.conv_crf_transformer import UNK, ConvCrfTransformer
from train_model.models.fold import fold
from train_model.models.transformer_multibranch_v2 import TransformerMultibranch


def to_onnx(model: ConvCrfTransformer) -> ir.Model:
    """Export the network.

    Returns:
        A graph of opset 20: ``src_tokens`` int64 [batch, src_len] to ``output_tokens`` int64 and
        ``output_scores`` float32, both [batch, canvas]; what a reader must know of the network (its
        configuration, special tokens, padding) is in the metadata.
    """
    config = model.config
    graph_model = export_graph(
        model.eval(),
        {"src_tokens": torch.full((2, 7), UNK)},
        {"src_tokens": {0: "batch", 1: "src_len"}},
        ["output_tokens", "output_scores"],
        limits={"src_len": config.max_source_positions},
    )
    for output in graph_model.graph.outputs:
        output.shape = ir.Shape(["batch", "canvas"])
    graph_model.metadata_props.update(metadata(config, "conv_crf_transformer"))
    return graph_model


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="fairseq checkpoint (.pt)")
    parser.add_argument("--output", type=Path, required=True, help="ONNX file to write")
    parser.add_argument(
        "--fold",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="do the network's constant algebra before the export (train_model/models/fold.py)",
    )
    parser.add_argument(
        "--split",
        action="store_true",
        help="two files beside OUTPUT, model.encoder.onnx and model.decoder.onnx, instead of one",
    )
    arguments = parser.parse_args(argv)
    loaded = load_checkpoint(arguments.checkpoint)
    written = [arguments.output]
    if isinstance(loaded.model, TransformerMultibranch):
        if arguments.split:
            raise UserError("an autoregressive network is always two files; leave --split out")
        export_ar.write(loaded.model, arguments.output)
    else:
        model = fold(loaded.model) if arguments.fold else loaded.model
        if arguments.split:
            export_split.write(model, arguments.output)
            written = [half_path(arguments.output, half) for half in export_split.HALVES]
        else:
            save_onnx(to_onnx(model), arguments.output)
    for path in written:
        size = path.stat().st_size / 2**20
        print(f"{path}: {size:.1f} MiB, padding {loaded.config.padding_policy}")
    return 0


if __name__ == "__main__":
    run(main)
