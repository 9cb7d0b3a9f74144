"""Passes that move the softmax over the taps, the padding mask and layout changes into the convolution.

    logits -> Reshape [B,T,H,K] -> Softmax -> Transpose [B,H,K,T] --\\
    x [B,T,C] (-> Where mask) -> Transpose [B,C,T] --------------- LiteDynamicConv -> Transpose -> y

becomes one LiteDynamicConv with ``fused=1`` that reads logits [B,T,H*K], x and the mask, and writes
[B,T,C]: one pass over memory instead of six. Networks in fairseq's [T,B,C] get the same operator between
two Transposes that reorder whole rows, not single numbers.

A gate (GLU) before the convolution stays a node: the projection that makes the taps reads it too.
"""

import dataclasses

import onnx_ir as ir

from trt_code.surgeon.graph import (
    Pass,
    attribute,
    axes_of,
    cast,
    dim,
    is_scalar,
    made_by,
    new_node,
    nodes_of,
    on_each,
    on_last_axis,
    permutation,
    plugin_node,
    rank,
    remove_unused,
    replace,
    used_once,
)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The Transposes that bring x, taps and result from a network's layout to the operator's and back."""

    x: list[int]
    weight: list[int]
    result: list[int]
    rows: list[int] | None  # from the network's layout to [B,T,C], which is its own inverse


_LAYOUTS = (
    _Layout([0, 2, 1], [0, 2, 3, 1], [0, 2, 1], rows=None),  # [B,T,C]
    _Layout([1, 2, 0], [1, 2, 3, 0], [2, 0, 1], rows=[1, 0, 2]),  # [T,B,C]
)


@on_each("LiteDynamicConv")
def fuse_taps(model: ir.Model, node: ir.Node) -> bool:
    """Move the softmax over the taps and the layout changes into the convolution."""
    if attribute(node, "fused", 0):
        return False
    transposes = [made_by(value, "Transpose") for value in node.inputs]
    perms = [permutation(item) for item in transposes]
    layout = next((item for item in _LAYOUTS if [item.x, item.weight] == perms), None)
    if layout is None:
        return False
    softmax = made_by(transposes[1].inputs[0], "Softmax")
    if softmax is None or not on_last_axis(softmax, attribute(softmax, "axis", -1)):
        return False
    reshape = made_by(softmax.inputs[0], "Reshape")
    if reshape is None or rank(reshape.inputs[0]) != 3:
        return False
    heads, kernel_size = dim(softmax.inputs[0], 2), dim(softmax.inputs[0], 3)
    if None in (heads, kernel_size) or dim(reshape.inputs[0], 2) != heads * kernel_size:
        return False
    users = [use.node for use in node.outputs[0].uses()]
    if not users or node.outputs[0].is_graph_output():
        return False
    if any(user.op_type != "Transpose" or permutation(user) != layout.result for user in users):
        return False
    x = transposes[0].inputs[0]
    inputs = [_rows(model, node, value, layout) for value in (x, reshape.inputs[0])]
    fused = plugin_node(
        model,
        node,
        "LiteDynamicConv",
        inputs,
        name=f"{node.name}.fused",
        attributes={
            "padding_l": attribute(node, "padding_l"),
            "fused": 1,
            "heads": heads,
            "kernel_size": kernel_size,
        },
        outputs=[(x.dtype, inputs[0].shape)],
    )
    result = _rows(model, node, fused.outputs[0], layout)
    for user in users:
        replace(model, user.outputs[0], result)
    return True


def _rows(model: ir.Model, before: ir.Node, value: ir.Value, layout: _Layout) -> ir.Value:
    """Return ``value``, with batch and time exchanged if the network's layout needs it."""
    if layout.rows is None:
        return value
    shape = value.shape and ir.Shape([value.shape[axis] for axis in layout.rows])
    node = new_node(
        model,
        before,
        "Transpose",
        [value],
        name=f"{value.name}.rows",
        attributes={"perm": layout.rows},
        outputs=[(value.dtype, shape)],
    )
    return node.outputs[0]


def fuse_mask(model: ir.Model) -> int:
    """Move a ``Where(padding, 0, x)`` right before a fused convolution into its mask."""
    count = 0
    for node in _fused(model):
        where = made_by(node.inputs[0], "Where")
        if where is None or len(node.inputs) > 2 or not used_once(node.inputs[0]):
            continue
        unsqueeze = made_by(where.inputs[0], "Unsqueeze")
        if unsqueeze is None or not on_last_axis(node, _only(axes_of(unsqueeze))):
            continue
        padding = unsqueeze.inputs[0]
        if not is_scalar(where.inputs[1], 0):
            continue
        node.resize_inputs(3)
        node.replace_input_with(0, where.inputs[2])
        node.replace_input_with(2, _real(model, where, padding))
        count += 1
    model.graph.sort()  # an existing Not may come later in the graph
    remove_unused(model)
    return count


def _fused(model: ir.Model) -> list[ir.Node]:
    return [node for node in nodes_of(model, "LiteDynamicConv") if attribute(node, "fused", 0)]


def _only(axes: list[int] | None) -> int | None:
    return axes[0] if axes is not None and len(axes) == 1 else None


def _real(model: ir.Model, before: ir.Node, padding: ir.Value) -> ir.Value:
    """Return the INT32 mask of real positions [B, T] for a bool mask of padding, shared by the graph."""
    name = f"{padding.name}.real"
    inverse = next((node for node, _ in padding.uses() if node.op_type == "Not"), None)
    for user, _ in inverse.outputs[0].uses() if inverse else ():
        if user.op_type == "Cast" and attribute(user, "to") == ir.DataType.INT32:
            return user.outputs[0]
    inverse = inverse or new_node(
        model,
        before,
        "Not",
        [padding],
        name=f"{name}_bool",
        outputs=[(ir.DataType.BOOL, padding.shape)],
    )
    return cast(model, before, inverse.outputs[0], ir.DataType.INT32, name)


PASSES = [
    Pass("conv-taps", "softmax over taps and layout changes into LiteDynamicConv", fuse_taps),
    Pass("conv-mask", "padding mask before a convolution into LiteDynamicConv", fuse_mask),
]
