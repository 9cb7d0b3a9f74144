"""Turns CumSum into a product with a triangular matrix of ones.

TensorRT 10 imports CumSum as a loop with one step per position, and only in floating point. Counts of tokens
are exact in FP32, and also in TF32, where ones and zeros are exact and sums are in FP32.
"""

import numpy as np
import onnx_ir as ir

from trt_code.surgeon.graph import (
    Pass,
    add_constant,
    attribute,
    constant,
    new_node,
    on_each,
    on_last_axis,
    rank,
    replace,
)


@on_each("CumSum")
def to_product(model: ir.Model, node: ir.Node) -> bool:
    """Replace ``CumSum(x [B,T], 1)`` of integers by ``x @ (row <= column)`` in FP32, with Casts around it."""
    x, axis = node.inputs[0], constant(node.inputs[1])
    if attribute(node, "exclusive", 0) or attribute(node, "reverse", 0):
        return False
    if axis is None or rank(x) != 2 or not on_last_axis(node, int(axis.item())):
        return False
    if x.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return False
    _rewrite(model, node, x)
    return True


def _rewrite(model: ir.Model, node: ir.Node, x: ir.Value) -> None:
    batch, length = x.shape
    float32, int64 = ir.DataType.FLOAT, ir.DataType.INT64

    def step(op_type, inputs, suffix, dtype, shape, **attributes) -> ir.Value:
        return new_node(
            model,
            node,
            op_type,
            inputs,
            name=f"{node.name}.{suffix}",
            attributes=attributes,
            outputs=[(dtype, ir.Shape(shape))],
        ).outputs[0]

    zero = add_constant(model, "int64_0", np.array(0, np.int64))
    one = add_constant(model, "int64_1", np.array(1, np.int64))
    first = add_constant(model, "axes_0", np.array([0], np.int64))
    second = add_constant(model, "axes_1", np.array([1], np.int64))
    size = step("Shape", [x], "size", int64, [1], start=1, end=2)
    count = step("Squeeze", [size, first], "count", int64, [])
    index = step("Range", [zero, count, one], "index", int64, [length])
    row = step("Unsqueeze", [index, second], "row", int64, [length, 1])
    below = step("LessOrEqual", [row, index], "below", ir.DataType.BOOL, [length, length])
    triangle = step("Cast", [below], "triangle", float32, [length, length], to=int(float32))
    numbers = step("Cast", [x], "numbers", float32, [batch, length], to=int(float32))
    total = step("MatMul", [numbers, triangle], "total", float32, [batch, length])
    result = step("Cast", [total], "result", x.dtype, [batch, length], to=int(x.dtype))
    replace(model, node.outputs[0], result)


PASSES = [Pass("cumulative-sum", "CumSum of integers to a product with a triangle", to_product)]
