"""Keeps the weights of INT8 layers as INT8 in the file."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

_LEAST, _LARGEST = -128, 127


def quantize_weights(model: ir.Model) -> None:
    """Replace every QuantizeLinear of a constant by its result, in place.

    The exporter's own folding does not fold quantisation. If DequantizeLinear were folded too, no INT8
    layer would be left.
    """
    graph = model.graph
    for index, node in enumerate([*graph]):
        if node.op_type != "QuantizeLinear":
            continue
        constants = [ir.convenience.get_const_tensor(value) for value in node.inputs[:2]]
        if None in constants:
            continue
        x, scale = (tensor.numpy() for tensor in constants)
        if scale.ndim:
            axis = node.attributes["axis"].as_int()
            scale = scale.reshape([-1 if at == axis else 1 for at in range(x.ndim)])
        rounded = np.rint(x / scale).clip(_LEAST, _LARGEST).astype(np.int8)
        # named like the exporter's constants, until they get names by place
        name = f"val_int8_{index}"
        value = ir.Value(name=name, const_value=ir.tensor(rounded, name=name))
        value.shape, value.dtype = ir.Shape(rounded.shape), ir.DataType.INT8
        graph.register_initializer(value)
        node.outputs[0].replace_all_uses_with(value)
    RemoveUnusedNodesPass()(model)
