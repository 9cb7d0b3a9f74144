"""Exports a PyTorch module to an ONNX graph: the common part of all exports of the project."""

import contextlib
import logging
import warnings
from collections.abc import Mapping

import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from onnx_export.int8_weights import quantize_weights
from onnx_export.naming import name_by_scope
from onnx_export.symbols import EXPORTED, FUNCTIONS, TRANSLATIONS
from train_model import interrupt
from train_model.models.signatures import Signature

OPSET = 20


def export_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor | Mapping[str, Tensor]],
    signature: Signature,
    limits: Mapping[str, int] | None = None,
) -> ir.Model:
    """Export ``module``, in evaluation mode, to a graph of opset 20.

    Args:
        module: called with the inputs in their order; a group of inputs is one list to it.
        inputs: an example by the name that the graph's input gets, or a named group of such.
        signature: the names of the inputs and of what the module returns, with their dynamic axes.
        limits: the greatest size of an axis, by its name.

    Returns:
        The graph, with nodes named by their place in the network, and with the reference functions of
        the project's operators.
    """
    limits, axes = limits or {}, signature.inputs
    names = {name for axis in axes.values() for name in axis.values()}
    dims = {name: torch.export.Dim(name, min=1, max=limits.get(name)) for name in names}

    def shape(name: str) -> dict[int, torch.export.Dim]:
        return {axis: dims[dim] for axis, dim in axes[name].items()}

    groups = [
        (list(value.values()), list(value)) if isinstance(value, Mapping) else (value, name)
        for name, value in inputs.items()
    ]
    input_names = [n for _, name in groups for n in ([name] if isinstance(name, str) else name)]
    with _quiet(), interrupt.passed_on():
        program = torch.onnx.export(
            module,
            tuple(value for value, _ in groups),
            dynamo=True,
            opset_version=OPSET,
            input_names=input_names,
            output_names=list(signature.outputs),
            dynamic_shapes=tuple(
                shape(name) if isinstance(name, str) else list(map(shape, name))
                for _, name in groups
            ),
            custom_translation_table=TRANSLATIONS,
            optimize=False,
            verbose=False,
        )
    model = program.model
    _simplify(model)
    quantize_weights(model)
    name_by_scope(model)
    called = {node.op_type for node in model.graph}
    for name in sorted(called.intersection(EXPORTED)):  # a set's order varies by process
        function = ir.serde.deserialize_function(FUNCTIONS[name])
        model.functions[function.identifier()] = function
    model.producer_name, model.producer_version = "lite_transformer_trt", ""
    return model


def _simplify(model: ir.Model) -> None:
    """Fold constants, transposed weights among them unless another node reads the same weight.

    A weight in INT8 is folded up to its QuantizeLinear, see ``onnx_export.int8_weights``.
    """

    def should_fold(node: ir.Node) -> bool | None:
        if node.op_type == "Transpose" and node.inputs[0].is_initializer():
            readers = [reader.op_type for reader, _ in node.outputs[0].uses()]
            return len(node.inputs[0].uses()) == 1 or readers == ["QuantizeLinear"]
        return False if node.op_type == "DequantizeLinear" else None

    no_limit = 2**31
    optimizer.optimize_ir(
        model, input_size_limit=no_limit, output_size_limit=no_limit, should_fold=should_fold
    )


@contextlib.contextmanager
def _quiet():
    """Hide the exporter's warnings about unused packages and about its own internals.

    Fake tensors log a traceback if Ctrl-C meets them; a real error is raised as well.
    """
    quieter = {"torch.onnx": logging.ERROR, "torch._subclasses.fake_tensor": logging.CRITICAL}
    before = {name: logging.getLogger(name).level for name in quieter}
    for name, level in quieter.items():
        logging.getLogger(name).setLevel(level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        # printed if two inputs share an axis, which is intended
        warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)
