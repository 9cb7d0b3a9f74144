"""Finds the shapes of a graph's tensors without running it.

ONNX's shape inference knows the shapes that follow from constants. A graph computes other sizes from the
shapes of its inputs, in small tensors. These are computed here and given to the next inference as constants.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

TOKENS = 256
"""The size of every free axis of an input except the first, which is 1."""
MAX_VALUES = 64
"""The most elements of a tensor that is computed here."""
ROUNDS = 64
"""The most inferences; the graphs of this project need about ten."""
WORK = 200_000
"""The most nodes of all inferences together, after the first two."""

Compute = Callable[[onnx.NodeProto, list[np.ndarray]], np.ndarray]


def known_shapes(model: onnx.ModelProto) -> tuple[onnx.GraphProto, dict[str, list[int]]]:
    """Return the graph with its functions inlined, and the shapes of its tensors as far as they are known.

    The shapes are those for one sentence of ``TOKENS`` tokens. The weights are not read.
    """
    work = onnx.inliner.inline_local_functions(_without_weights(model))
    nodes = list(work.graph.node)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in work.graph.initializer}
    shapes: dict[str, list[int]] = {}
    for _ in range(min(ROUNDS, 2 + WORK // (1 + len(nodes)))):
        shapes = _infer(work, shapes)
        found = _compute(work.graph.node, shapes, values)
        if not found:
            break
        values |= found
        rest = [node for node in work.graph.node if not {*node.output} <= values.keys()]
        del work.graph.node[:]
        work.graph.node.extend(rest)
        work.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in found.items()
        )
    del work.graph.node[:]
    work.graph.node.extend(nodes)
    return work.graph, shapes | {name: list(value.shape) for name, value in values.items()}


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with inputs of a fixed size in place of its inputs and large weights."""
    graph = model.graph
    kept, inputs = [], []
    for tensor in graph.initializer:
        if np.prod(tensor.dims, dtype=object) <= MAX_VALUES and not tensor.external_data:
            kept.append(tensor)
        else:
            inputs.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    weights = {tensor.name for tensor in graph.initializer}
    for item in graph.input:
        if item.name not in weights:
            kind = item.type.tensor_type
            sizes = [
                size.dim_value if size.HasField("dim_value") else TOKENS if axis else 1
                for axis, size in enumerate(kind.shape.dim)
            ]
            inputs.append(helper.make_tensor_value_info(item.name, kind.elem_type, sizes))
    outputs = [onnx.ValueInfoProto(name=item.name) for item in graph.output]
    work = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions
    )
    work.graph.CopyFrom(
        onnx.GraphProto(
            name=graph.name, node=graph.node, initializer=kept, input=inputs, output=outputs
        )
    )
    return work


def _infer(model: onnx.ModelProto, before: dict[str, list[int]]) -> dict[str, list[int]]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = dict(before)
    for item in (*graph.input, *graph.value_info, *graph.output):
        kind = item.type.tensor_type
        if kind.HasField("shape") and all(size.HasField("dim_value") for size in kind.shape.dim):
            found[item.name] = [size.dim_value for size in kind.shape.dim]
    return found


def _compute(
    nodes: Any, shapes: dict[str, list[int]], values: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the values of small tensors that follow from known shapes and values."""
    found: dict[str, np.ndarray] = {}
    for node in nodes:
        known = [found.get(name, values.get(name)) for name in node.input]
        try:
            if node.op_type in ("Shape", "Size") and known[0] is not None:
                value = _shape(node, list(known[0].shape))
            elif node.op_type in ("Shape", "Size") and node.input[0] in shapes:
                value = _shape(node, shapes[node.input[0]])
            elif node.op_type in _COMPUTE and not node.domain and not any(x is None for x in known):
                value = np.asarray(_COMPUTE[node.op_type](node, known))
            else:
                continue
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            continue  # damaged: the runtime reports it
        if value.size <= MAX_VALUES and value.dtype != object:
            found[node.output[0]] = value
    return found


def _shape(node: onnx.NodeProto, shape: list[int]) -> np.ndarray:
    if node.op_type == "Size":
        return np.int64(np.prod(shape))
    return np.array(shape, np.int64)[_attribute(node, "start", 0) : _attribute(node, "end", None)]


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = (helper.get_attribute_value(item) for item in node.attribute if item.name == name)
    return next(found, default)


def _axes(node: onnx.NodeProto, x: list[np.ndarray]) -> tuple[int, ...] | None:
    axes = x[1].reshape(-1).tolist() if len(x) > 1 else _attribute(node, "axes", None)
    return None if axes is None else tuple(axes)


def _constant(node: onnx.NodeProto) -> np.ndarray:
    (value,) = map(helper.get_attribute_value, node.attribute)
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def _filled(node: onnx.NodeProto, x: list[np.ndarray]) -> np.ndarray:
    value = _attribute(node, "value", numpy_helper.from_array(np.zeros(1, np.float32)))
    if np.prod(x[0], dtype=object) > MAX_VALUES or value.external_data:
        raise ValueError("no small tensor")
    return np.full(x[0].reshape(-1).tolist(), numpy_helper.to_array(value).reshape(()))


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.trunc(a / b).astype(a.dtype)


def _elementwise(function: Callable[..., np.ndarray]) -> Compute:
    return lambda node, x: function(*x)


def _reduced(function: Callable[..., np.ndarray]) -> Compute:
    return lambda node, x: (
        np.broadcast_arrays(*x) and function(np.stack(np.broadcast_arrays(*x)), 0)
    )


_COMPUTE: dict[str, Compute] = {
    "Add": _elementwise(operator.add),
    "Cast": lambda node, x: x[0].astype(
        helper.tensor_dtype_to_np_dtype(_attribute(node, "to", TensorProto.INT64))
    ),
    "Concat": lambda node, x: np.concatenate(x, _attribute(node, "axis", 0)),
    "Constant": lambda node, x: _constant(node),
    "ConstantOfShape": _filled,
    "Div": _elementwise(_divide),
    "Equal": _elementwise(operator.eq),
    "Gather": lambda node, x: np.take(x[0], x[1], _attribute(node, "axis", 0)),
    "Identity": lambda node, x: x[0],
    "Max": _reduced(np.max),
    "Min": _reduced(np.min),
    "Mod": _elementwise(operator.mod),
    "Mul": _elementwise(operator.mul),
    "Neg": _elementwise(operator.neg),
    "Pow": _elementwise(operator.pow),
    "ReduceProd": lambda node, x: np.prod(x[0], keepdims=bool(_attribute(node, "keepdims", 1))),
    "Reshape": lambda node, x: x[0].reshape(x[1].reshape(-1).tolist()),
    "Slice": lambda node, x: x[0][slice(*(int(y.reshape(-1)[0]) for y in (x[1], x[2])))],
    "Squeeze": lambda node, x: np.squeeze(x[0], _axes(node, x)),
    "Sub": _elementwise(operator.sub),
    "Unsqueeze": lambda node, x: np.expand_dims(x[0], _axes(node, x)),
    "Where": _elementwise(np.where),
}
