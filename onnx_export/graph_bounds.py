"""Limits on the work that a graph may cause, checked before a runtime opens the file.

A runtime inlines functions, folds constants and runs loops as a file says. A file of some kilobytes can
keep it busy without end, or fill the memory.
"""

import math
from collections.abc import Iterable, Iterator, Mapping

import onnx

from onnx_export.graph_sizes import MAX_VALUES, TOKENS, known_shapes

MAX_NODES = 100_000
"""Nodes after all functions are inlined; the largest graph of this project has some thousands."""
MAX_DEPTH = 16
"""Graphs inside nodes of graphs."""
MAX_ELEMENTS = 2**28
"""Elements of a tensor that a node makes from constants."""
MAX_COMPUTED = 2**30
"""Elements of any tensor for one sentence of ``TOKENS`` tokens: the scores of a million words, with room."""
ENDLESS = ("Loop", "If")
"""Control flow that no graph of this project has; ``Scan`` ends with its input."""
MAX_INPUTS = 4096
"""Inputs of one node; the surgeon's time grows with their square."""
_UNBOUNDED = (
    *("Compress", "StringConcat", "Unique"),
    *(
        "ConcatFromSequence",
        "SequenceConstruct",
        "SequenceInsert",
        "SequenceMap",
        "SplitToSequence",
    ),
)
"""Operators whose sizes cannot be computed here; no graph of this project has them."""
_MAKES = ("ConstantOfShape", "Expand", "Tile", "Range")
_GROWS = (*_MAKES, "OneHot", "Pad", "Resize", "Upsample")
_UNKNOWN = "makes a tensor whose size depends on more than the input's size"


def excess(model: onnx.ModelProto) -> str | None:
    """Return which limit ``model`` exceeds, or None."""
    try:
        return _calls(model) or _constants(model) or _computed(model)
    except RecursionError:
        return f"it has graphs more than {MAX_DEPTH} deep inside each other"


def _calls(model: onnx.ModelProto) -> str | None:
    functions = {(function.domain, function.name): function for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[onnx.NodeProto], open_calls: tuple) -> int:
        total = 0
        for node, depth in _nested(nodes):
            if depth > MAX_DEPTH:
                raise RecursionError
            key = (node.domain, node.op_type)
            total += 1 + (inlined(key, open_calls) if key in functions else 0)
        return min(total, 2 * MAX_NODES)

    def inlined(key: tuple[str, str], open_calls: tuple) -> int:
        if key in open_calls:
            raise _Recursive(key[1])
        if key not in sizes:
            sizes[key] = size(functions[key].node, (*open_calls, key))
        return sizes[key]

    try:
        total = max([size(model.graph.node, ()), *(inlined(key, ()) for key in functions)])
    except _Recursive as error:
        return f"its function {error} calls itself"
    if total > MAX_NODES:
        return f"its functions make more than {MAX_NODES} nodes"
    return None


class _Recursive(Exception):
    """A function that calls itself; the message is its name."""


def _nested(
    nodes: Iterable[onnx.NodeProto], depth: int = 0
) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Yield every node, also of the graphs inside nodes, with its depth."""
    for node in nodes:
        yield node, depth
        if depth > MAX_DEPTH:
            continue
        for attribute in node.attribute:
            graphs = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
            for graph in graphs:
                yield from _nested(graph.node, depth + 1)


def _constants(model: onnx.ModelProto) -> str | None:
    scopes = [(model.graph.node, model.graph.initializer), *((f.node, ()) for f in model.functions)]
    for nodes, initializers in scopes:
        known = {tensor.name: tensor for tensor in initializers}
        for node, depth in _nested(nodes):
            if node.op_type in ENDLESS and not node.domain:
                return f"node {node.name} is a {node.op_type}, which may never end"
            if node.op_type in _UNBOUNDED and not node.domain:
                return f"node {node.name} ({node.op_type}) {_UNKNOWN}"
            if len(node.input) > MAX_INPUTS:
                return f"node {node.name} ({node.op_type}) has more than {MAX_INPUTS} inputs"
            if node.op_type == "Constant":
                values = [a.t for a in node.attribute if a.name == "value"]
                known |= zip(node.output, values, strict=False)
            elif node.op_type in _MAKES and _elements(node, known) > MAX_ELEMENTS:
                return f"node {node.name} ({node.op_type}) makes more than {MAX_ELEMENTS} elements"
            elif depth and node.op_type in _GROWS and not _elements(node, known):
                return f"node {node.name} ({node.op_type}) makes a tensor of unknown size at every step"
    return None


def _computed(model: onnx.ModelProto) -> str | None:
    """Return which node makes too much, or an unknown amount, from sizes that the graph computes, or None."""
    try:
        graph, shapes = known_shapes(model)
    except RecursionError:
        raise
    except Exception:  # damaged: the checker or the runtime reports it
        return None
    # TensorRT's plugins have no shapes here, so nothing is known behind them
    standard = all(node.domain in ("", "ai.onnx") for node in graph.node)
    growing = _GROWS
    if any(node.op_type == "NonZero" for node in graph.node):
        growing += ("Concat",)  # can double its input; behind NonZero its size is not known
    for node in graph.node:
        name = f"node {node.name} ({node.op_type})"
        if any(math.prod(shapes.get(output, ())) > MAX_COMPUTED for output in node.output):
            return f"{name} makes more than {MAX_COMPUTED} elements for {TOKENS} tokens"
        if standard and node.op_type in growing and node.output[0] not in shapes:
            return f"{name} {_UNKNOWN}"
    return None


def _elements(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]) -> float:
    """Return the number of elements that a node makes from constants, or 0 if it is unknown."""
    given = [_values(known.get(name)) for name in node.input]
    if node.op_type == "Range" and len(given) == 3 and all(given):
        start, limit, delta = (values[0] for values in given)
        return (limit - start) / delta if delta else math.inf
    sizes = given[0 if node.op_type == "ConstantOfShape" else -1]
    return math.prod(abs(size) for size in sizes) if sizes and node.op_type != "Range" else 0


def _values(tensor: onnx.TensorProto | None) -> list[float]:
    """Return the numbers of a small constant; none for a large or unknown one."""
    if tensor is None or math.prod(tensor.dims) > MAX_VALUES or tensor.external_data:
        return []
    try:
        return onnx.numpy_helper.to_array(tensor).astype(float).reshape(-1).tolist()
    except Exception:  # damaged: the reader of the weights reports it
        return []
