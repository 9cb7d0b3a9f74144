"""Turns a decomposed LayerNorm, as exporters before opset 17 write it, into one LayerNormalization.

x -> ReduceMean -> Sub -> Pow 2 -> ReduceMean -> Add eps -> Sqrt -> Div -> (Mul scale -> Add shift)
"""

import numpy as np
import onnx_ir as ir

from trt_code.surgeon.graph import (
    Pass,
    add_constant,
    attribute,
    axes_of,
    constant,
    dim,
    is_scalar,
    made_by,
    new_node,
    on_each,
    on_last_axis,
    other_input,
    replace,
    sole_user,
)


@on_each("Div")
def compose(model: ir.Model, node: ir.Node) -> bool:
    """Replace every decomposed LayerNorm over the last axis; epsilon comes from the graph."""
    match = _match(node)
    if match is None:
        return False
    x, epsilon = match
    width = dim(x, -1)
    if width is None:
        return False
    result, scale, shift = _affine(node, width)
    scale = scale or add_constant(model, f"ones_{width}", np.ones(width, np.float32))
    shift = shift or add_constant(model, f"zeros_{width}", np.zeros(width, np.float32))
    norm = new_node(
        model,
        result.producer(),
        "LayerNormalization",
        [x, scale, shift],
        name=f"{node.name}.layer_norm",
        attributes={"axis": -1, "epsilon": epsilon},
        outputs=[(x.dtype, x.shape)],
    )
    replace(model, result, norm.outputs[0])
    return True


def _match(div: ir.Node) -> tuple[ir.Value, float] | None:
    """Return the normalised input and epsilon if ``div`` is the division of a LayerNorm."""
    centred, sqrt = div.inputs[0], made_by(div.inputs[1], "Sqrt")
    sub = made_by(centred, "Sub")
    total = made_by(sqrt.inputs[0], "Add") if sqrt else None
    if sub is None or total is None:
        return None
    epsilon = next((value for value in total.inputs if is_scalar(value)), None)
    variance = _mean(other_input(total, epsilon)) if epsilon is not None else None
    if variance is None or not _is_square_of(variance, sub):
        return None
    mean_of = _mean(sub.inputs[1])
    if mean_of is not sub.inputs[0]:
        return None
    return mean_of, float(constant(epsilon).item())


def _mean(value: ir.Value) -> ir.Value | None:
    """Return the input of a mean over the last axis with kept dimension, or None."""
    node = made_by(value, "ReduceMean")
    if node is None or not attribute(node, "keepdims", 1):
        return None
    axes = axes_of(node)
    if axes is None or len(axes) != 1 or not on_last_axis(node, axes[0]):
        return None
    return node.inputs[0]


def _is_square_of(value: ir.Value, sub: ir.Node) -> bool:
    """Whether ``value`` is the square of the output of ``sub`` or of an equal Sub."""
    square = made_by(value, "Pow", "Mul")
    if square is None:
        return False
    if square.op_type == "Pow":
        bases, fits = (square.inputs[0],), is_scalar(square.inputs[1], 2)
    else:
        bases, fits = square.inputs, square.inputs[0] is square.inputs[1]
    twin = made_by(bases[0], "Sub")
    if not fits or twin is None:
        return False
    return twin is sub or (
        twin.inputs[0] is sub.inputs[0] and _mean(twin.inputs[1]) is _mean(sub.inputs[1])
    )


def _affine(div: ir.Node, width: int) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
    """Return the output after scale and shift, and these two or None."""
    result, scale, shift = div.outputs[0], None, None
    mul = sole_user(result, "Mul")
    if mul is not None and _is_vector(other := other_input(mul, result), width):
        result, scale = mul.outputs[0], other
    add = sole_user(result, "Add")
    if add is not None and _is_vector(other := other_input(add, result), width):
        result, shift = add.outputs[0], other
    return result, scale, shift


def _is_vector(value: ir.Value, width: int) -> bool:
    array = constant(value)
    return array is not None and array.shape == (width,)


PASSES = [Pass("decomposed-norm", "spelled-out LayerNorm to LayerNormalization", compose)]
