"""Patches an exported ONNX file for TensorRT: plugin nodes, fused forms, precision in the graph.

    python -m trt_code.onnx_surgeon --input model.onnx --output model.fp16.onnx --precision fp16

The patched file has nodes that only TensorRT with the project's plugins knows; with ``--plugins none`` it
has only standard operators. ``onnx_export.reference.with_reference_functions`` makes it run in ONNX
Runtime, where it is compared with PyTorch. For an autoregressive or iterative network, the encoder in the
folder of the input is patched too, and written to the folder of the output. With ``--split`` the files are
model.encoder.onnx and model.decoder.onnx.
"""

import argparse
import dataclasses
from collections.abc import Collection
from pathlib import Path

import onnx
import onnx_ir as ir

from onnx_export.marks import WEIGHTS, check_pair
from onnx_export.onnx_file import (
    load_onnx,
    metadata_of,
    runnable,
    save_onnx,
    save_pair,
)
from onnx_export.paths import half_path
from train_model.cli import Parser, UserError, check_output, first_line, path_argument, run
from train_model.models.signatures import SPLIT
from trt_code import graph_lint
from trt_code.surgeon import fused_conv, layer_norm, plain, plugin_nodes, quantization, top_k
from trt_code.surgeon.graph import DOMAIN, Pass
from trt_code.surgeon.older import cumulative_sum, decomposed_norm, exports, viterbi
from trt_code.surgeon.precision import PrecisionPlan, apply_plan, make_plan
from trt_code.surgeon.ranges import measure, measure_decoder, measure_step

# FP32 and TF32 share one graph; a flag of the build chooses between them.
PRECISIONS = {
    "fp32": None,
    "tf32": None,
    "fp16": ir.DataType.FLOAT16,
    "bf16": ir.DataType.BFLOAT16,
    "int8": ir.DataType.FLOAT16,
}
PASSES: list[Pass] = [
    *exports.PASSES,
    *decomposed_norm.PASSES,
    *viterbi.PASSES,
    *cumulative_sum.PASSES,
    *quantization.PASSES,
    *fused_conv.PASSES,
    *layer_norm.PASSES,
    *top_k.PASSES,
    *plugin_nodes.PASSES,
]


@dataclasses.dataclass(frozen=True)
class Report:
    """The changes to a model: how often each pass applied, the precision plan and its casts."""

    counts: dict[str, int]
    plan: PrecisionPlan | None
    casts: list[str]

    def explain(self, model: ir.Model) -> list[str]:
        """Return the plan as lines: the nodes that stay FP32, with reasons, and the Casts."""
        if self.plan is None:
            return ["every node is FP32"]
        kept = {
            node: why
            for node, why in self.plan.kept.items()
            if node.graph is model.graph and node.op_type != "Cast"
        }
        return [
            *(f"FP32  {node.name} ({node.op_type}): {why}" for node, why in kept.items()),
            *(f"cast  {line}" for line in self.casts),
            f"{len(kept)} nodes in FP32, {len(self.casts)} casts, the rest in {self.plan.low.name}",
        ]


def patch(
    model: ir.Model,
    precision: str = "fp32",
    without: Collection[str] = (),
    encoder: ir.Model | None = None,
) -> Report:
    """Patch ``model`` in place.

    Args:
        model: an exported graph, in FP32.
        precision: one of ``PRECISIONS``.
        without: names of passes to leave out.
        encoder: the encoder of a decoder or of its step, in FP32. Without it these cannot run, so their
        ranges are known only from the weights.

    Raises:
        UserError: int8 is wanted of a graph that is not quantized, or the graph does not run.
    """
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph)
    if precision == "int8" and not quantized:
        raise UserError(
            "int8 needs a graph with QuantizeLinear nodes; export a quantised checkpoint (make ptq)"
        )
    counts = {item.name: item.apply(model) for item in PASSES if item.name not in without}
    low, plan, casts = PRECISIONS[precision], None, []
    if low is not None:
        try:
            ranges = _ranges(model, encoder)
        except Exception as error:  # onnxruntime's own types have no public base
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"the graph does not run: {reason}; export it again") from error
        plan = make_plan(model, low, ranges)
        casts = apply_plan(model, plan)
    model.metadata_props["precision"] = precision
    return Report(counts, plan, casts)


def _ranges(model: ir.Model, encoder: ir.Model | None) -> dict[str, float]:
    if encoder is not None:
        is_step = model.metadata_props["half"] == "step"
        return (measure_step if is_step else measure_decoder)(encoder, model)
    return measure(model) if len(model.graph.inputs) == 1 else {}


def load(path: Path) -> ir.Model:
    """Read a file that the surgeon can work on.

    Raises:
        UserError: it is not a valid ONNX graph, or has no node of the project.
    """
    try:
        upgraded = exports.upgrade(load_onnx(path))
        _check(upgraded, path)
    except (
        RuntimeError,
        ValueError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is not a valid graph: {reason}; export it again") from error
    model = ir.serde.deserialize_model(upgraded)
    exports.complete(model)
    ours = "architecture" in model.metadata_props  # one step of a decoder needs no plugin
    if not ours and not any(node.domain == DOMAIN for node in model.graph):
        raise UserError(
            f"{path} has no LiteDynamicConv or LiteCrfDecode node, so there is nothing to patch; "
            "give a file that onnx_export.export wrote, or an older one with dynamicconv_forward nodes"
        )
    return model


def _check(model: onnx.ModelProto, path: Path) -> None:
    """Run ONNX's checker, from the file if the weights are in another file: they are too large for memory."""
    is_large = WEIGHTS in metadata_of(model)
    onnx.checker.check_model(str(path) if is_large else model, full_check=True)


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = Parser(description=first_line(__doc__))
    parser.add_argument("--input", type=path_argument, required=True, help="exported ONNX file")
    parser.add_argument(
        "--output", type=path_argument, required=True, help="patched ONNX file to write"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument(
        "--plugins",
        choices=("lite", "none"),
        default="lite",
        help="lite: nodes of the project's plugins (default); none: standard operators only, which "
        "are slower but need nothing compiled or shipped",
    )
    parser.add_argument(
        "--layer-norm", choices=("plugin", "native"), default="plugin", help="LiteLayerNorm or ONNX"
    )
    parser.add_argument(
        "--quantize-residuals",
        action="store_true",
        help="int8: let residual sums read INT8 too; no network was trained for this (doc/int8.md)",
    )
    parser.add_argument(
        "--explain", action="store_true", help="print what stays FP32 and why, and where casts are"
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=[item.name for item in PASSES],
        metavar="PASS",
        help="leave a rewrite out (repeatable): " + ", ".join(item.name for item in PASSES),
    )
    parser.add_argument("--split", action="store_true", help="the two files of export --split")
    arguments = parser.parse_args(argv)
    inputs = [arguments.input, *(half_path(arguments.input, half) for half in SPLIT)]
    for path in (arguments.output, *(half_path(arguments.output, half) for half in SPLIT)):
        check_output(path, *inputs)
    without = {*arguments.without}
    if arguments.layer_norm == "native":
        without |= {item.name for item in layer_norm.PASSES}
    if not arguments.quantize_residuals:
        without |= {item.name for item in quantization.PASSES}
    if arguments.split:
        encoder, decoder = (load(half_path(arguments.input, half)) for half in SPLIT)
        outputs = [half_path(arguments.output, half) for half in SPLIT]
        return _patch_pair(encoder, decoder, outputs, arguments, without)
    model = load(arguments.input)
    if model.metadata_props.get("half") not in ("step", "decoder"):  # one file
        report = patch(model, arguments.precision, without)
        return _write({arguments.output: (model, report)}, arguments)
    encoder = load(half_path(arguments.input, "encoder"))
    outputs = [half_path(arguments.output, "encoder"), arguments.output]
    return _patch_pair(encoder, model, outputs, arguments, without)


def _patch_pair(
    encoder: ir.Model,
    decoder: ir.Model,
    outputs: list[Path],
    arguments: argparse.Namespace,
    without: Collection[str],
) -> int:
    """Patch two files of one export and write them, the decoder last: make takes it as the target for both.

    Raises:
        UserError: they come from different exports.
    """
    check_pair([encoder.metadata_props, decoder.metadata_props], arguments.input)
    reports = [
        patch(decoder, arguments.precision, without, encoder),
        patch(encoder, arguments.precision, without),
    ]
    pair = {outputs[0]: (encoder, reports[1]), outputs[1]: (decoder, reports[0])}
    return _write(pair, arguments)


def _write(patched: dict[Path, tuple[ir.Model, Report]], arguments: argparse.Namespace) -> int:
    """Write the patched models and print the changes; return 1 if TensorRT would refuse one of them."""
    explained = {path: item[1].explain(item[0]) for path, item in patched.items()}
    models = {path: model for path, (model, _) in patched.items()}
    for path, model in models.items():
        if arguments.plugins == "none":
            models[path] = plain.without_plugins(model)
        models[path].metadata_props["plugins"] = arguments.plugins
    try:
        if len(models) == 1:
            ((path, model),) = models.items()
            save_onnx(model, path)
        else:
            save_pair(models)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(
            f"{arguments.input} gives no valid graph: {error}; export it again"
        ) from error
    status = 0
    for path, (_, report) in patched.items():
        for item in PASSES:
            print(f"{report.counts.get(item.name, 'off'):>5}  {item.help}")
        if arguments.explain:
            print("\n".join(explained[path]))
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
        with runnable(models[path]) as (message, _folder):
            status = max(status, graph_lint.report(message, path))
    return status


if __name__ == "__main__":
    run(main)
