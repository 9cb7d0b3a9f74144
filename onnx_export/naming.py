"""Names nodes by their place in the network, independent of the exporter's counters.

``decoder.layers.0.linear1/MatMul`` and its weight ``decoder.layers.0.linear1.weight`` are what a profile
of the engine, a precision plan or an error message shows.
"""

import ast
import collections

import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"


def name_by_scope(model: ir.Model) -> None:
    """Rename nodes, their outputs and unnamed constants of a freshly exported graph, in place.

    Inputs, outputs and parameters with names from the state dict keep them. The exporter's metadata on
    nodes and values, such as source paths, is removed.
    """
    graph = model.graph
    kept = {value.name for value in (*graph.inputs, *graph.outputs)}
    count = collections.Counter(kept | set(graph.initializers))
    for node in graph:
        node.name = _unique(f"{_scope(node)}/{node.op_type}", count)
    for node in graph:
        for index, value in enumerate(node.outputs):
            if value.name not in kept:
                value.name = f"{node.name}:{index}" if len(node.outputs) > 1 else node.name
            value.metadata_props.clear()
        node.metadata_props.clear()
    for value in [*graph.initializers.values()]:
        if value.name.startswith("val_"):
            del graph.initializers[value.name]
            value.name = _unique(_constant_name(value), count)
            graph.initializers[value.name] = value
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
        value.metadata_props.clear()
    graph.metadata_props.clear()
    model.metadata_props.clear()


def _scope(node: ir.Node) -> str:
    """The innermost module that the node belongs to; the last entry names the operation itself."""
    modules = ast.literal_eval(node.metadata_props.get(_SCOPES, "['']"))[:-1]
    # names of scopes outside any module begin with an underscore
    return next((name for name in reversed(modules) if name and name[0] != "_"), "model")


def _constant_name(value: ir.Value) -> str:
    node, position = value.uses()[0]
    scope = node.name.rsplit("/", 1)[0]
    if node.op_type in ("MatMul", "Gemm") and position == 1:
        return f"{scope}.weight"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return (scope.removesuffix("_quantizer"), f"{scope}.scale", f"{scope}.zero_point")[position]
    return f"{node.name}.{position}"


def _unique(name: str, count: collections.Counter) -> str:
    count[name] += 1
    return name if count[name] == 1 else f"{name}_{count[name] - 1}"
