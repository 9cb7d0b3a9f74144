"""From a checkpoint to one ONNX file with dynamic batch and length.

The project's operators stay one node each, in the domain ``lite``; a model-local function beside each
lets any ONNX runtime run the file without a library of ours.

    python -m onnx_export.export --checkpoint checkpoint.pt --output model.onnx
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import warnings
from pathlib import Path

import onnx_ir as ir
import torch
from onnxscript import optimizer

from onnx_export.naming import name_by_scope
from onnx_export.onnx_file import save_onnx
from onnx_export.symbols import EXPORTED, FUNCTIONS, TRANSLATIONS
from train_model.cli import UserError, run
from train_model.models.checkpoint import load_checkpoint
from train_model.models.conv_crf_transformer import BOS, EOS, PAD, UNK, ConvCrfTransformer
from train_model.models.fold import fold

OPSET = 20


def to_onnx(model: ConvCrfTransformer) -> ir.Model:
    """Export the network.

    Returns:
        A graph of opset 20: ``src_tokens`` int64 [batch, src_len] to ``output_tokens`` int64 and
        ``output_scores`` float32, both [batch, canvas]; what a reader must know of the network (its
        configuration, special tokens, padding) is in the metadata.
    """
    config = model.config
    example = torch.full((2, 7), UNK)
    batch = torch.export.Dim("batch", min=1)
    src_len = torch.export.Dim("src_len", min=1, max=config.max_source_positions)
    with _quiet():
        program = torch.onnx.export(
            model.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["src_tokens"],
            output_names=["output_tokens", "output_scores"],
            dynamic_shapes=({0: batch, 1: src_len},),
            custom_translation_table=TRANSLATIONS,
            optimize=False,
            verbose=False,
        )
    graph_model = program.model
    _simplify(graph_model)
    name_by_scope(graph_model)
    for output in graph_model.graph.outputs:
        output.shape = ir.Shape(["batch", "canvas"])
    for name in EXPORTED:
        function = ir.serde.deserialize_function(FUNCTIONS[name])
        graph_model.functions[function.identifier()] = function
    graph_model.metadata_props.update(_metadata(config))
    graph_model.producer_name, graph_model.producer_version = "lite_transformer_trt", ""
    return graph_model


def _simplify(model: ir.Model) -> None:
    """Fold constants, transposed weights among them unless another node reads the same weight."""

    def should_fold(node: ir.Node) -> bool | None:
        if node.op_type == "Transpose" and node.inputs[0].is_initializer():
            return len(node.inputs[0].uses()) == 1
        return None

    no_limit = 2**31
    optimizer.optimize_ir(
        model, input_size_limit=no_limit, output_size_limit=no_limit, should_fold=should_fold
    )


def _metadata(config) -> dict[str, str]:
    """What a runner or the surgeon must know of the network; see doc/export.md."""
    return {
        "architecture": "conv_crf_transformer",
        "config": json.dumps(dataclasses.asdict(config), sort_keys=True),
        "padding_policy": config.padding_policy,
        "left_pad_source": str(config.left_pad_source).lower(),
        "special_ids": json.dumps({"bos": BOS, "pad": PAD, "eos": EOS, "unk": UNK}),
        "max_source_positions": str(config.max_source_positions),
        "max_target_positions": str(config.max_target_positions),
    }


@contextlib.contextmanager
def _quiet():
    """The exporter's remarks on packages that the network does not use, and on its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            yield
        finally:
            logger.setLevel(level)


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="fairseq checkpoint (.pt)")
    parser.add_argument("--output", type=Path, required=True, help="ONNX file to write")
    parser.add_argument(
        "--fold",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="do the network's constant algebra before the export (train_model/models/fold.py)",
    )
    arguments = parser.parse_args(argv)
    loaded = load_checkpoint(arguments.checkpoint)
    if not isinstance(loaded.model, ConvCrfTransformer):
        raise UserError(
            f"{arguments.checkpoint} holds a {loaded.kind}; only conv_crf_transformer can be exported"
        )
    save_onnx(to_onnx(fold(loaded.model) if arguments.fold else loaded.model), arguments.output)
    size = arguments.output.stat().st_size / 2**20
    print(f"{arguments.output}: {size:.1f} MiB, padding {loaded.config.padding_policy}")
    return 0


if __name__ == "__main__":
    run(main)
