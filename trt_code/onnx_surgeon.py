"""Patches an exported ONNX file for TensorRT: plugin nodes, fused forms, precision in the graph.

    python -m trt_code.onnx_surgeon --input model.onnx --output model.fp16.onnx --precision fp16

The patched file has nodes that only TensorRT with the project's plugins knows;
``onnx_export.reference.with_reference_functions`` makes it run in ONNX Runtime, where it is proven.
"""

import argparse
from pathlib import Path

import onnx_ir as ir

from onnx_export.onnx_file import load_onnx, save_onnx
from train_model.cli import UserError, run
from trt_code.surgeon import cumulative_sum, fused_conv, layer_norm, plugin_nodes, top_k
from trt_code.surgeon.graph import DOMAIN, Pass

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")
PASSES: list[Pass] = [
    *cumulative_sum.PASSES,
    *fused_conv.PASSES,
    *layer_norm.PASSES,
    *top_k.PASSES,
    *plugin_nodes.PASSES,
]


def patch(model: ir.Model, without: frozenset[str] = frozenset()) -> dict[str, int]:
    """Run the passes over ``model``, in place; give how often each applied."""
    return {item.name: item.apply(model) for item in PASSES if item.name not in without}


def load(path: Path) -> ir.Model:
    """Read a file that the surgeon can work on.

    Raises:
        UserError: it is no ONNX file, or has no node of the project.
    """
    model = ir.serde.deserialize_model(load_onnx(path))
    if not any(node.domain == DOMAIN for node in model.graph):
        raise UserError(
            f"{path} has no LiteDynamicConv or LiteCrfDecode node, so there is nothing to patch; "
            "give a file that onnx_export.export wrote"
        )
    return model


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, required=True, help="exported ONNX file")
    parser.add_argument("--output", type=Path, required=True, help="patched ONNX file to write")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument(
        "--layer-norm", choices=("plugin", "native"), default="plugin", help="LiteLayerNorm or ONNX"
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=[item.name for item in PASSES],
        metavar="PASS",
        help="leave a rewrite out (repeatable): " + ", ".join(item.name for item in PASSES),
    )
    arguments = parser.parse_args(argv)
    without = {*arguments.without}
    if arguments.layer_norm == "native":
        without |= {item.name for item in layer_norm.PASSES}
    model = load(arguments.input)
    counts = patch(model, frozenset(without))
    save_onnx(model, arguments.output)
    for item in PASSES:
        state = counts.get(item.name, "off")
        print(f"{state:>5}  {item.help}")
    print(f"{arguments.output}: {arguments.output.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    run(main)
