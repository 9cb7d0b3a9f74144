"""``lite::dynamic_conv`` as ONNX sees it: the node ``LiteDynamicConv`` and its reference functions.

The exporter writes the plain form. The surgeon turns it into the fused form (``fused=1``): x [B,T,C],
logits [B,T,H*K] and an optional mask [B,T] int32. Each form has one function.
"""

import onnx
from onnxscript import FLOAT, INT32, script
from onnxscript import opset20 as op

from onnx_export.symbols.domain import LITE
from onnx_export.symbols.schema import Attribute, Form, Operator, TensorSpec, Type


def translate(x: FLOAT, weight: FLOAT, padding_l: int) -> FLOAT:
    """Write one node for ``lite::dynamic_conv(x [B,C,T], weight [B,H,K,T], padding_l) -> [B,C,T]``."""
    return OPERATOR.exported(x, weight, padding_l=padding_l)


# The taps of every position become one row of a banded [T, T] matrix, and the convolution a product
# with it: K slices or a gather of windows are 5 to 40 times slower in ONNX Runtime. The band comes from
# a skew: K taps and T zeros per row, read again as rows one shorter, shift row t by t places.
@script(LITE, default_opset=op)
def LiteDynamicConv(x: FLOAT, weight: FLOAT, padding_l: int) -> FLOAT:
    """Convolve in FP32, whatever the precision of the node, as the CUDA kernel accumulates."""
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    rest = op.Constant(value_ints=[-1])
    batch = op.Shape(x, start=0, end=1)
    length = op.Shape(x, start=2, end=3)
    heads = op.Shape(weight, start=1, end=2)
    taps = op.Shape(weight, start=2, end=3)
    left = op.Constant(value_ints=[0]) + padding_l

    rows = op.Transpose(op.Cast(weight, to=onnx.TensorProto.FLOAT), perm=[0, 1, 3, 2])
    rows = op.Pad(rows, op.Concat(zero, zero, zero, zero, zero, zero, zero, length, axis=0))
    width = length + taps - one
    flat = op.Reshape(rows, op.Concat(batch, heads, rest, axis=0))
    flat = op.Slice(flat, zero, length * width, op.Constant(value_ints=[2]))
    band = op.Reshape(flat, op.Concat(batch, heads, length, width, axis=0))
    band = op.Slice(band, left, left + length, op.Constant(value_ints=[3]))

    grouped = op.Reshape(
        op.Cast(x, to=onnx.TensorProto.FLOAT), op.Concat(batch, heads, rest, length, axis=0)
    )
    y = op.MatMul(grouped, op.Transpose(band, perm=[0, 1, 3, 2]))
    return op.CastLike(op.Reshape(y, op.Shape(x)), x)


@script(LITE, default_opset=op)
def LiteDynamicConvFused(
    x: FLOAT, logits: FLOAT, padding_l: int, heads: int, kernel_size: int
) -> FLOAT:
    """Softmax over the taps in FP32, and the convolution, both channels last."""
    last = op.Constant(value_ints=[-1])
    heads_taps = op.Concat(
        op.Reshape(op.Constant(value_int=heads), last),
        op.Reshape(op.Constant(value_int=kernel_size), last),
        axis=0,
    )
    wide = op.Cast(logits, to=onnx.TensorProto.FLOAT)
    shape = op.Concat(op.Shape(logits, start=0, end=2), heads_taps, axis=0)
    weight = op.Transpose(op.Softmax(op.Reshape(wide, shape), axis=-1), perm=[0, 2, 3, 1])
    columns = op.Transpose(op.Cast(x, to=onnx.TensorProto.FLOAT), perm=[0, 2, 1])
    y = LiteDynamicConv(columns, weight, padding_l=padding_l)
    return op.CastLike(op.Transpose(y, perm=[0, 2, 1]), x)


@script(LITE, default_opset=op)
def LiteDynamicConvFusedMask(
    x: FLOAT, logits: FLOAT, mask: INT32, padding_l: int, heads: int, kernel_size: int
) -> FLOAT:
    """The same over an input that counts as zero where the mask is 0."""
    real = op.Unsqueeze(op.Cast(mask, to=onnx.TensorProto.BOOL), op.Constant(value_ints=[-1]))
    zero = op.CastLike(op.Constant(value_float=0.0), x)
    return LiteDynamicConvFused(
        op.Where(real, x, zero), logits, padding_l=padding_l, heads=heads, kernel_size=kernel_size
    )


OPERATOR = Operator(
    "LiteDynamicConv",
    "Depthwise convolution with different taps at each position; with fused=1 their softmax is inside.",
    forms=[
        Form(
            inputs=[
                TensorSpec("x", Type.DATA, "B C T"),
                TensorSpec("weight", Type.DATA, "B H K T"),
            ],
            outputs=[TensorSpec("y", Type.DATA, "B C T")],
            functions=[LiteDynamicConv],
            when={"fused": 0},
        ),
        Form(
            inputs=[
                TensorSpec("x", Type.DATA, "B T C"),
                TensorSpec("logits", Type.DATA, "B T heads*kernel_size"),
                TensorSpec("mask", Type.INT32, "B T", optional=True),
            ],
            outputs=[TensorSpec("y", Type.DATA, "B T C")],
            functions=[LiteDynamicConvFused, LiteDynamicConvFusedMask],
            when={"fused": 1},
        ),
    ],
    attributes={
        "padding_l": Attribute(int, "zeros before the sentence"),
        "fused": Attribute(int, "1 for the form with the softmax inside", default=0),
        "heads": Attribute(int, "H; with fused=0 the weight has it", default=0),
        "kernel_size": Attribute(int, "K; with fused=0 the weight has it", default=0),
    },
)
