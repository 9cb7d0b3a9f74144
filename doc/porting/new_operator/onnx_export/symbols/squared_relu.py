"""``lite::squared_relu`` as ONNX sees it: the node ``LiteSquaredRelu`` and its reference function."""

import onnx
from onnxscript import FLOAT, script
from onnxscript import opset20 as op

from onnx_export.symbols.domain import LITE
from onnx_export.symbols.schema import Attribute, Form, Operator, TensorSpec, Type


def translate(x: FLOAT, limit: float) -> FLOAT:
    """Write one node for ``lite::squared_relu(x, limit)``."""
    return OPERATOR.exported(x, limit=limit)


@script(LITE, default_opset=op)
def LiteSquaredRelu(x: FLOAT, limit: float) -> FLOAT:
    """Compute in FP32, whatever the precision of the node, as the CUDA kernel does."""
    positive = op.Relu(op.Cast(x, to=onnx.TensorProto.FLOAT))
    return op.CastLike(op.Min(positive * positive, op.Constant(value_float=limit)), x)


OPERATOR = Operator(
    "LiteSquaredRelu",
    "The square of the positive numbers, cut at a limit.",
    forms=[
        Form(
            inputs=[TensorSpec("x", Type.DATA, "... C")],
            outputs=[TensorSpec("y", Type.DATA, "... C")],
            functions=[LiteSquaredRelu],
        )
    ],
    attributes={"limit": Attribute(float, "the largest result, positive")},
)
