"""What passes need to look at a graph and to rebuild parts of it."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnx_export.symbols import DOMAIN, VERSION


@dataclasses.dataclass(frozen=True)
class Pass:
    """One rewrite, its name in the summary and for ``--without``, and what it does in a line."""

    name: str
    help: str
    apply: Callable[[ir.Model], int]


def nodes_of(model: ir.Model, *op_types: str) -> Iterator[ir.Node]:
    """The nodes of the main graph with one of these types; the graph may be changed meanwhile."""
    return iter([node for node in model.graph if node.op_type in op_types])


def made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that gives ``value`` if it is of one of these types."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in op_types else None


def used_once(value: ir.Value) -> bool:
    """Whether one input of one node is all that reads ``value``."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def sole_user(value: ir.Value, *op_types: str) -> ir.Node | None:
    """The one node that reads ``value`` if there is one and it is of one of these types."""
    if not used_once(value):
        return None
    node = value.uses()[0].node
    return node if node.op_type in op_types else None


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The value of an initializer or a Constant node."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def is_scalar(value: ir.Value | None, number: float | None = None) -> bool:
    """Whether ``value`` is a constant of one element, and equal to ``number`` where one is given."""
    array = constant(value)
    return (
        array is not None and array.size == 1 and (number is None or float(array.item()) == number)
    )


def other_input(node: ir.Node, value: ir.Value) -> ir.Value:
    """The other operand of a node of two."""
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def attribute(node: ir.Node, name: str, default=None):
    """The value of an attribute."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def rank(value: ir.Value) -> int | None:
    """The number of dimensions where it is known."""
    return None if value.shape is None else len(value.shape)


def dim(value: ir.Value, axis: int) -> int | None:
    """A dimension that is known to be one number."""
    size = None if value.shape is None else value.shape[axis]
    return size if isinstance(size, int) else None


def axes_of(node: ir.Node) -> list[int] | None:
    """The axes of a Reduce, Squeeze or Unsqueeze node: an input, or in older opsets an attribute."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"].value)
    array = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if array is None else array.reshape(-1).tolist()


def on_last_axis(node: ir.Node, axis: int | None) -> bool:
    """Whether ``axis`` of the node's input is its last."""
    if axis == -1:
        return True
    size = rank(node.inputs[0])
    return axis is not None and size is not None and axis == size - 1


def permutation(node: ir.Node | None) -> list[int] | None:
    """What a Transpose does."""
    return list(attribute(node, "perm", [])) if node is not None else None


def add_constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """The initializer ``name``, made if it is not there; one name is one value."""
    graph = model.graph
    if name not in graph.initializers:
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
        graph.register_initializer(value)
    return graph.initializers[name]


def new_node(
    model: ir.Model,
    before: ir.Node,
    op_type: str,
    inputs: list[ir.Value | None],
    *,
    name: str,
    attributes: dict | None = None,
    domain: str = "",
    outputs: list[tuple[ir.DataType | None, ir.Shape | None]] | None = None,
) -> ir.Node:
    """Put a node before another; its outputs are named after it and have the given types and shapes."""
    outputs = outputs or [(None, None)]
    node = ir.node(
        op_type, inputs, attributes or {}, domain=domain, num_outputs=len(outputs), name=name
    )
    for index, (value, (dtype, shape)) in enumerate(zip(node.outputs, outputs, strict=True)):
        value.name = f"{name}:{index}" if len(outputs) > 1 else name
        value.shape = shape
        if dtype is not None:
            value.dtype = dtype
    model.graph.insert_before(before, node)
    return node


def replace(model: ir.Model, old: ir.Value, new: ir.Value) -> None:
    """Let everything that reads ``old`` read ``new``, under the old name, which readers know."""
    new.shape = new.shape if new.shape is not None else old.shape
    name, kept = old.name, old.is_graph_output()
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if kept:
        old.name, new.name = f"{name}_replaced", name


def remove_unused(model: ir.Model) -> None:
    """Drop nodes and constants that no output depends on."""
    RemoveUnusedNodesPass()(model)


def plugin_node(model: ir.Model, before: ir.Node, op_type: str, *args, **options) -> ir.Node:
    """A node that a TensorRT plugin implements."""
    model.graph.opset_imports.setdefault(DOMAIN, VERSION)
    return new_node(model, before, op_type, *args, domain=DOMAIN, **options)
