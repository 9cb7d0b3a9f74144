"""Turns LayerNorm into the plugin ``LiteLayerNorm``, which includes the residual sum before it."""

import numpy as np
import onnx_ir as ir

from trt_code.surgeon.graph import (
    Pass,
    add_constant,
    attribute,
    constant,
    dim,
    made_by,
    on_each,
    on_last_axis,
    plugin_node,
    replace,
    used_once,
)


@on_each("LayerNormalization")
def to_plugin(model: ir.Model, node: ir.Node) -> bool:
    """Replace each LayerNormalization over the last axis with constant scale by a LiteLayerNorm."""
    x, scale = node.inputs[:2]
    if not on_last_axis(node, attribute(node, "axis", -1)) or constant(scale) is None:
        return False
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return False
    shift = node.inputs[2] if len(node.inputs) > 2 else None
    if shift is None:
        width = constant(scale).size
        shift = add_constant(model, f"zeros_{width}", np.zeros(width, np.float32))
    plugin = plugin_node(
        model,
        node,
        "LiteLayerNorm",
        [x, scale, shift],
        name=node.name,
        attributes={"eps": float(attribute(node, "epsilon", 1e-5))},
        outputs=[(x.dtype, x.shape)],
    )
    replace(model, node.outputs[0], plugin.outputs[0])
    model.graph.remove(node, safe=True)
    return True


@on_each("LiteLayerNorm")
def fuse_residual(model: ir.Model, node: ir.Node) -> bool:
    """Move the sum before a LiteLayerNorm into it if nothing else reads the sum."""
    total = made_by(node.inputs[0], "Add")
    if total is None or len(node.inputs) > 3 or not used_once(total.outputs[0]):
        return False
    x, residual = total.inputs
    if not _same_shape(x, residual, total.outputs[0]):
        return False
    node.resize_inputs(4)
    node.replace_input_with(0, x)
    node.replace_input_with(3, residual)
    return True


def _same_shape(*values: ir.Value) -> bool:
    """Whether no operand is broadcast; a bias [C] is not a residual."""
    if any(value.shape is None or len(value.shape) < 2 for value in values):
        return False
    first = values[0]
    return all(value.shape == first.shape and dim(value, -1) is not None for value in values)


PASSES = [
    Pass("layer-norm", "LayerNormalization to LiteLayerNorm", to_plugin),
    Pass("residual", "residual sum before a LayerNorm into LiteLayerNorm", fuse_residual),
]
