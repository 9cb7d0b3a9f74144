"""``lite::fake_quantize`` as ONNX sees it: QuantizeLinear and DequantizeLinear, int8, zero point 0.

For a weight, the export keeps only DequantizeLinear: ``onnx_export/graph.py`` folds QuantizeLinear.
"""

import onnx
from onnxscript import FLOAT
from onnxscript import opset20 as op

from train_model.ops.fake_quantize import LARGEST


def translate(x: FLOAT, amax: FLOAT, axis: int) -> FLOAT:
    """Write the pair for ``lite::fake_quantize(x, amax [] or [N], axis)``."""
    scale = op.Div(amax, op.Constant(value_float=float(LARGEST)))
    zero = op.Constant(value=onnx.helper.make_tensor("zero", onnx.TensorProto.INT8, [], [0]))
    if axis < 0:  # of one scale, for which the operators ignore it
        return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero), scale, zero)
    zero = op.Expand(zero, op.Shape(scale))
    rounded = op.QuantizeLinear(x, scale, zero, axis=axis)
    return op.DequantizeLinear(rounded, scale, zero, axis=axis)
