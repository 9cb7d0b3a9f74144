"""Helpers with which passes inspect a graph and rebuild parts of it."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnx_export.symbols import DOMAIN, VERSION


@dataclasses.dataclass(frozen=True)
class Pass:
    """One rewrite, its name in the summary and for ``--without``, and a description of one line."""

    name: str
    help: str
    apply: Callable[[ir.Model], int]


def nodes_of(model: ir.Model, *op_types: str) -> Iterator[ir.Node]:
    """Yield the main graph's nodes of these types; the caller may change the graph meanwhile."""
    return iter([node for node in model.graph if node.op_type in op_types])


def on_each(*op_types: str) -> Callable[[Callable[..., bool]], Callable[[ir.Model], int]]:
    """Make a pass of a function that rewrites one node and returns whether it did.

    The pass calls the function on every node of these types, removes what is then unused, and returns the
    number of rewritten nodes.
    """

    def make(rewrite: Callable[[ir.Model, ir.Node], bool]) -> Callable[[ir.Model], int]:
        @functools.wraps(rewrite)
        def apply(model: ir.Model) -> int:
            count = sum(rewrite(model, node) for node in nodes_of(model, *op_types))
            remove_unused(model)
            return count

        return apply

    return make


def made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return the node that produces ``value`` if it has one of these types."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in op_types else None


def used_once(value: ir.Value) -> bool:
    """Whether the only reader of ``value`` is one input of one node."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def sole_user(value: ir.Value, *op_types: str) -> ir.Node | None:
    """Return the only node that reads ``value``, if it has one of these types."""
    if not used_once(value):
        return None
    node = value.uses()[0].node
    return node if node.op_type in op_types else None


def constant(value: ir.Value | None) -> np.ndarray | None:
    """Return the array of an initializer or a Constant node, or None."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def is_scalar(value: ir.Value | None, number: float | None = None) -> bool:
    """Whether ``value`` is a constant of one element, equal to ``number`` if that is given."""
    array = constant(value)
    return (
        array is not None and array.size == 1 and (number is None or float(array.item()) == number)
    )


def other_input(node: ir.Node, value: ir.Value) -> ir.Value:
    """Return the other operand of a node with two operands."""
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def attribute(node: ir.Node, name: str, default=None):
    """Return the value of an attribute, or ``default``."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def rank(value: ir.Value) -> int | None:
    """Return the number of dimensions, or None if it is unknown."""
    return None if value.shape is None else len(value.shape)


def dim(value: ir.Value, axis: int) -> int | None:
    """Return the size of a dimension, or None if it is not a fixed number."""
    size = None if value.shape is None else value.shape[axis]
    return size if isinstance(size, int) else None


def axes_of(node: ir.Node) -> list[int] | None:
    """Return a Reduce, Squeeze or Unsqueeze node's axes: an input, or in older opsets an attribute."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"].value)
    array = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if array is None else array.reshape(-1).tolist()


def on_last_axis(node: ir.Node, axis: int | None) -> bool:
    """Whether ``axis`` is the last axis of the node's input."""
    if axis == -1:
        return True
    size = rank(node.inputs[0])
    return axis is not None and size is not None and axis == size - 1


def permutation(node: ir.Node | None) -> list[int] | None:
    """Return the permutation of a Transpose, or None for another node."""
    return list(attribute(node, "perm", [])) if node is not None else None


def add_constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """Return the initializer ``name``; add it if it does not exist. One name is one value."""
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


def cast(
    model: ir.Model, before: ir.Node, value: ir.Value, dtype: ir.DataType, name: str
) -> ir.Value:
    """Return ``value`` in another type, from a Cast put before a node."""
    node = new_node(
        model,
        before,
        "Cast",
        [value],
        name=name,
        attributes={"to": int(dtype)},
        outputs=[(dtype, value.shape)],
    )
    return node.outputs[0]


def replace(model: ir.Model, old: ir.Value, new: ir.Value) -> None:
    """Let all readers of ``old`` read ``new``, which takes the old name."""
    new.shape = new.shape if new.shape is not None else old.shape
    name, kept = old.name, old.is_graph_output()
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if kept:
        old.name, new.name = f"{name}_replaced", name


def remove_unused(model: ir.Model) -> None:
    """Remove nodes and constants on which no output depends."""
    RemoveUnusedNodesPass()(model)


def plugin_node(model: ir.Model, before: ir.Node, op_type: str, *args, **options) -> ir.Node:
    """Add a node that a TensorRT plugin implements."""
    model.graph.opset_imports.setdefault(DOMAIN, VERSION)
    return new_node(model, before, op_type, *args, domain=DOMAIN, **options)
