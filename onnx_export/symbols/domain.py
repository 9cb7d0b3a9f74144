"""The ONNX domain of the project's operators, and the schema they share the form of."""

from collections.abc import Mapping

import onnx
from onnxscript import values

DOMAIN = "lite"
VERSION = 1
LITE = values.Opset(DOMAIN, VERSION)

FLOATS = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)")


def operator(
    name: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    attributes: Mapping[str, onnx.defs.OpSchema.AttrType] | None = None,
) -> values.Op:
    """An operator of the domain for onnxscript to call.

    A translation must call an operator that has a schema: an onnxscript function called there would be
    written into the graph as its body, and the node that TensorRT's plugin stands for would be gone.

    Args:
        name: the ``op_type``.
        inputs: name to type; ``"T"`` is any of FP32, FP16 and BF16, one for the whole node.
        outputs: the same.
        attributes: name to kind; all of them required.
    """
    schema = onnx.defs.OpSchema
    return values.Op(
        LITE,
        name,
        schema(
            name,
            DOMAIN,
            VERSION,
            inputs=[schema.FormalParameter(*item) for item in inputs.items()],
            outputs=[schema.FormalParameter(*item) for item in outputs.items()],
            type_constraints=[("T", list(FLOATS), "the precision of the node")],
            attributes=[schema.Attribute(*item) for item in (attributes or {}).items()],
        ),
    )
