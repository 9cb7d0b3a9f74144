"""The form without plugins: every node of the project becomes the standard operators that define it.

It is the patched graph with the reference functions put in place of their calls, so it computes what the
plugins compute, in the same precisions, and what ``onnx_export.reference`` runs in ONNX Runtime. The
functions do their sums and choices in FP32, TopK among them: ONNX's TopK has no BF16 before operator set 24,
and a BF16 or FP16 number is the same number in FP32, so neither the order nor the values change.
"""

import logging

import onnx
import onnx_ir as ir
from onnxscript import optimizer

from onnx_export.reference import with_reference_functions


def without_plugins(model: ir.Model) -> ir.Model:
    """Return ``model``, which the passes have patched, as a graph of standard operators alone.

    Constants that the functions compute, such as TopK's k, are folded: TensorRT's importer wants them as
    initializers. Types and shapes are inferred anew.
    """
    called = with_reference_functions(ir.serde.serialize_model(model), native=True)
    plain = ir.serde.deserialize_model(called)
    logger = logging.getLogger("onnxscript.optimizer")
    before = logger.level
    logger.setLevel(
        logging.ERROR
    )  # it warns of shapes that it does not merge, which onnx infers below
    try:
        optimizer.optimize(plain)
    finally:
        logger.setLevel(before)
    plain.opset_imports.pop("lite", None)
    _drop_shapes(plain)
    inferred = onnx.shape_inference.infer_shapes(ir.serde.serialize_model(plain), data_prop=True)
    return ir.serde.deserialize_model(inferred)


def _drop_shapes(model: ir.Model) -> None:
    """Forget what is known of the values inside; it may be a call's, which had no shape."""
    kept = {*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()}
    for node in model.graph:
        for value in node.outputs:
            if value not in kept:
                value.shape = value.type = None
