"""``LiteLayerNorm``, which only the surgeon writes: LayerNorm with the residual added inside."""

import onnx
from onnxscript import FLOAT, script
from onnxscript import opset20 as op

from onnx_export.symbols.domain import LITE
from onnx_export.symbols.schema import Attribute, Form, Operator, TensorSpec, Type


@script(LITE, default_opset=op)
def LiteLayerNorm(x: FLOAT, scale: FLOAT, shift: FLOAT, eps: float) -> FLOAT:
    """Normalise x [.., C] over its last axis in FP32; scale and shift are FP32."""
    wide = op.Cast(x, to=onnx.TensorProto.FLOAT)
    return op.CastLike(op.LayerNormalization(wide, scale, shift, axis=-1, epsilon=eps), x)


@script(LITE, default_opset=op)
def LiteLayerNormResidual(
    x: FLOAT, scale: FLOAT, shift: FLOAT, residual: FLOAT, eps: float
) -> FLOAT:
    """Normalise x + residual, summed in FP32."""
    wide = op.Cast(x, to=onnx.TensorProto.FLOAT) + op.Cast(residual, to=onnx.TensorProto.FLOAT)
    return op.CastLike(op.LayerNormalization(wide, scale, shift, axis=-1, epsilon=eps), x)


OPERATOR = Operator(
    "LiteLayerNorm",
    "Normalises x, or x + residual, over its last axis. Statistics are FP32 in every precision.",
    forms=[
        Form(
            inputs=[
                TensorSpec("x", Type.DATA, "... C"),
                TensorSpec("scale", Type.FP32, "C"),
                TensorSpec("shift", Type.FP32, "C"),
                TensorSpec("residual", Type.DATA, "... C", optional=True),
            ],
            outputs=[TensorSpec("y", Type.DATA, "... C")],
            functions=[LiteLayerNorm, LiteLayerNormResidual],
        )
    ],
    attributes={"eps": Attribute(float, "added to the variance")},
)
