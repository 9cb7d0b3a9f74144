"""Writes the form without plugins: replaces each node of the project by its definition in standard operators.

The result is the patched graph with the reference functions inlined. It computes the same as the plugins, in
the same precisions, and the same as ``onnx_export.reference`` in ONNX Runtime. The
functions compute sums and choices in FP32, TopK among them: ONNX's TopK has no BF16 before operator set 24,
and a BF16 or FP16 number is the same number in FP32, so neither the order nor the values change.
"""

import logging

import onnx
import onnx_ir as ir
from onnxscript import optimizer

from onnx_export.reference import with_reference_functions


def without_plugins(model: ir.Model) -> ir.Model:
    """Return the patched ``model`` as a graph of only standard operators.

    Constants that the functions compute, such as TopK's k, are folded: TensorRT's importer needs them as
    initializers. Types and shapes are inferred again.
    """
    called = with_reference_functions(ir.serde.serialize_model(model), native=True)
    plain = ir.serde.deserialize_model(called)
    logger = logging.getLogger("onnxscript.optimizer")
    before = logger.level
    logger.setLevel(logging.ERROR)  # hides warnings about unmerged shapes, which onnx infers below
    try:
        optimizer.optimize(plain)
    finally:
        logger.setLevel(before)
    plain.opset_imports.pop("lite", None)
    _drop_shapes(plain)
    inferred = onnx.shape_inference.infer_shapes(ir.serde.serialize_model(plain), data_prop=True)
    return ir.serde.deserialize_model(inferred)


def _drop_shapes(model: ir.Model) -> None:
    """Remove the types and shapes of inner values, which may come from a call without shapes."""
    kept = {*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()}
    for node in model.graph:
        for value in node.outputs:
            if value not in kept:
                value.shape = value.type = None
