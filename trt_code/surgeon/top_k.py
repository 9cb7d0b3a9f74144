"""Turns TopK over the vocabulary into the plugin ``LiteTopK``, with the INT32 indices that the CRF reads."""

import onnx_ir as ir

from trt_code.surgeon.graph import (
    Pass,
    attribute,
    constant,
    on_each,
    on_last_axis,
    plugin_node,
    replace,
)

LARGEST_K = 64  # of the plugin's kernel


@on_each("TopK")
def to_plugin(model: ir.Model, node: ir.Node) -> bool:
    """Replace each sorted TopK of the largest over the last axis if its indices are only read as INT32."""
    k = constant(node.inputs[1])
    if k is None or not 1 <= int(k.item()) <= LARGEST_K:
        return False
    if not on_last_axis(node, attribute(node, "axis", -1)):
        return False
    if not attribute(node, "largest", 1) or not attribute(node, "sorted", 1):
        return False
    values, indices = node.outputs
    casts = [use.node for use in indices.uses()]
    if indices.is_graph_output() or not all(_to_int32(cast) for cast in casts):
        return False
    plugin = plugin_node(
        model,
        node,
        "LiteTopK",
        [node.inputs[0]],
        name=node.name,
        attributes={"k": int(k.item())},
        outputs=[(values.dtype, values.shape), (ir.DataType.INT32, indices.shape)],
    )
    replace(model, values, plugin.outputs[0])
    for cast in casts:
        replace(model, cast.outputs[0], plugin.outputs[1])
    return True


def _to_int32(node: ir.Node) -> bool:
    return node.op_type == "Cast" and attribute(node, "to") == ir.DataType.INT32


PASSES = [Pass("top-k", "TopK to LiteTopK", to_plugin)]
