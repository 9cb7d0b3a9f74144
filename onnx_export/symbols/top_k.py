"""``LiteTopK``, which only the surgeon writes: the k largest of the last axis with INT32 indices."""

import onnx
from onnxscript import FLOAT, script
from onnxscript import opset20 as op

from onnx_export.symbols.domain import LITE
from onnx_export.symbols.schema import Attribute, Form, Operator, TensorSpec, Type


@script(LITE, default_opset=op)
def LiteTopK(x: FLOAT, k: int):
    """Values of x's type and indices INT32, descending; of equal values the lowest index first."""
    count = op.Reshape(op.Constant(value_int=k), op.Constant(value_ints=[-1]))
    values, indices = op.TopK(op.Cast(x, to=onnx.TensorProto.FLOAT), count, axis=-1)
    return op.CastLike(values, x), op.Cast(indices, to=onnx.TensorProto.INT32)


OPERATOR = Operator(
    "LiteTopK",
    "The k largest values of the last axis in descending order, with their indices.",
    forms=[
        Form(
            inputs=[TensorSpec("x", Type.DATA, "... V")],
            outputs=[
                TensorSpec("values", Type.DATA, "... k"),
                TensorSpec("indices", Type.INT32, "... k"),
            ],
            functions=[LiteTopK],
        )
    ],
    attributes={"k": Attribute(int, "how many values, 1 to 64")},
)
