"""Makes a strongly typed graph of two precisions: GEMMs, embeddings and convolutions in FP16 or BF16.

TensorRT runs every layer of a strongly typed network in the types that the graph says. So each
node gets one precision here, with a reason if it stays FP32. One Cast is inserted where a value passes from
one precision to the other. See doc/fp16.md.
"""

import dataclasses

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnx_export.symbols import OPERATORS
from onnx_export.symbols.schema import Type
from train_model.cli import UserError
from trt_code.surgeon.graph import constant, remove_unused, used_once
from trt_code.surgeon.ranges import MASKED

FP32 = ir.DataType.FLOAT

# Nodes that are as accurate in low precision as their operands; TensorRT sums products in FP32.
_LAYOUT = frozenset(
    ("Concat", "Expand", "Flatten", "Gather", "GatherND", "Identity", "Pad", "Reshape")
) | {"ScatterElements", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
_ELEMENTWISE = frozenset(["Add", "Clip", "Mul", "Neg", "Relu", "Sigmoid", "Sub", "Tanh", "Where"])
_PRODUCTS = frozenset(["Conv", "Gemm", "LiteDynamicConv", "MatMul"])
_LOW = _LAYOUT | _ELEMENTWISE | _PRODUCTS
_LOW |= {"DequantizeLinear", "QuantizeLinear", "Softmax", "TopK"}
_LOW |= frozenset(OPERATORS)
# ONNX has these in BF16 from operator set 22 on, which the importer of TensorRT 10 does not read.
_NOT_BF16 = frozenset(["Conv"])
# Inputs and outputs of plugins that are FP32 in every precision.
_FP32_INPUTS = {name: operator.positions(Type.FP32) for name, operator in OPERATORS.items()}
_FP32_OUTPUTS = {
    name: operator.positions(Type.FP32, outputs=True) for name, operator in OPERATORS.items()
}
# A softmax's input is rounded before the exponential: at 64 the half step of FP16 is 1/32. A lower limit
# (16) improved no translation, and keeps attention out of TensorRT's fused FP16 kernels.
_SOFTMAX_LIMIT = 64.0
# Other sentences may have larger values than the measured ones.
_HEADROOM = 4.0


@dataclasses.dataclass
class PrecisionPlan:
    """The nodes that stay FP32, with reasons; every other floating-point node has type ``low``."""

    low: ir.DataType
    kept: dict[ir.Node, str] = dataclasses.field(default_factory=dict)

    def precision(self, node: ir.Node) -> ir.DataType:
        """Return the type in which ``node`` computes."""
        return FP32 if node in self.kept else self.low

    def input_type(self, node: ir.Node, index: int) -> ir.DataType:
        """Return the floating-point type that input ``index`` of ``node`` must have."""
        return FP32 if index in _FP32_INPUTS.get(node.op_type, ()) else self.precision(node)

    def output_type(self, value: ir.Value) -> ir.DataType:
        """Return the floating-point type of a node's output."""
        node = value.producer()
        fixed = value.index() in _FP32_OUTPUTS.get(node.op_type, ())
        return FP32 if fixed else self.precision(node)


def make_plan(model: ir.Model, low: ir.DataType, ranges: dict[str, float]) -> PrecisionPlan:
    """Choose the precision of every node of the main graph.

    Args:
        model: the graph in FP32; values have their types.
        low: FLOAT16 or BFLOAT16.
        ranges: the largest magnitude of values, by name; see :func:`ranges.measure`.
    """
    plan = PrecisionPlan(low)
    limit = float(ml_dtypes.finfo(low.numpy()).max)
    for node in model.graph:
        if not _computes(node) or _from_integers(node):
            continue
        reach = _largest(node, ranges)
        if node.op_type not in _LOW:
            plan.kept[node] = "sums, statistics and choices are made in FP32"
        elif low == ir.DataType.BFLOAT16 and node.op_type in _NOT_BF16:
            plan.kept[node] = f"ONNX has no {node.op_type} of BFLOAT16 in this operator set"
        elif reach > limit / _HEADROOM:
            plan.kept[node] = f"reaches {reach:.3g}; {low.name} ends at {limit:.3g}"
        elif _inner(node) and all(_is_count(plan, value) for value in _inner(node)):
            plan.kept[node] = _COUNT
        elif any(_is_path_score(plan, value) for value in _inner(node)):
            plan.kept[node] = _PATH_SCORE
        elif any(_is_log_probability(plan, value) for value in _inner(node)):
            for value in _inner(node):
                _keep_back_to_product(plan, value.producer(), _LOG_PROBABILITY)
            plan.kept[node] = _LOG_PROBABILITY
        if node.op_type == "Softmax" and ranges.get(node.inputs[0].name, 0) > _SOFTMAX_LIMIT:
            reach = ranges[node.inputs[0].name]
            _keep_back_to_product(plan, node, f"softmax over scores up to {reach:.3g}")
        elif node.op_type == "ArgMax":
            _keep_back_to_product(plan, node, "decides the choice of an ArgMax")
    for node in reversed(model.graph):
        if node.op_type in _ELEMENTWISE and _computes(node) and _better_in_fp32(plan, node):
            plan.kept.setdefault(node, "one cast before it instead of one after")
    for node in model.graph:  # a Cast from integers gets the type of its readers
        if _from_integers(node) and not _all_read_low(plan, node.outputs[0]):
            plan.kept[node] = "read in FP32"
    return plan


def apply_plan(model: ir.Model, plan: PrecisionPlan) -> list[str]:
    """Set the plan's type on every value, in place; return the casts, one line each.

    Raises:
        UserError: the type of a value is not known, or the graph has loops or branches.
    """
    graph, low = model.graph, plan.low
    for node in graph:
        if any(value.dtype is None for value in node.outputs if value.uses()):
            raise UserError(f"the type of what node {node.name} gives is not known; export again")
        if any(attr.type == ir.AttributeType.GRAPH for attr in node.attributes.values()):
            raise UserError(
                f"node {node.name} ({node.op_type}) has a body; give a graph without one"
            )
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in [*graph]:
        for index, value in enumerate(node.inputs):
            if not _computes(node) or not _is_float(value):
                continue
            wanted = plan.input_type(node, index)
            if value.is_initializer():
                if wanted != FP32:
                    node.replace_input_with(index, _converted(graph, value, low, casts))
            elif _type(plan, value) != wanted:
                node.replace_input_with(index, _cast(graph, value, wanted, casts))
    for index, value in enumerate(graph.outputs):
        if _is_float(value) and _type(plan, value) != FP32:
            name = value.name
            value.name = f"{name}.{low.name}"
            graph.outputs[index] = _cast(graph, value, FP32, casts)
            graph.outputs[index].name = name
    inserted = {value for value in casts.values() if value.producer() is not None}
    for node in graph:
        if node.outputs[0] in inserted:
            continue
        if _from_integers(node):
            node.attributes["to"] = ir.AttrInt64("to", int(plan.precision(node)))
        for value in filter(_is_float, node.outputs):
            value.dtype = plan.output_type(value)
    remove_unused(model)
    _shorten_names(graph, low)
    return [
        f"{value.name} ({getattr(value.producer(), 'op_type', 'input')}): "
        f"{_type(plan, value).name} to {wanted.name}"
        for (value, wanted), cast in casts.items()
        if cast in inserted
    ]


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == FP32


def _computes(node: ir.Node) -> bool:
    """Whether the node computes in floating point; Shape and Size do not depend on the precision."""
    return node.op_type not in ("Shape", "Size") and any(
        map(_is_float, (*node.inputs, *node.outputs))
    )


def _inner(node: ir.Node) -> list[ir.Value]:
    """Return the floating-point operands that are not constants."""
    return [value for value in node.inputs if _is_float(value) and constant(value) is None]


def _from_integers(node: ir.Node | None) -> bool:
    """Whether ``node`` casts integers or booleans to floating point."""
    if node is None or node.op_type != "Cast":
        return False
    return _is_float(node.outputs[0]) and not _is_float(node.inputs[0])


def _largest(node: ir.Node, ranges: dict[str, float]) -> float:
    """Return the largest magnitude among a node's operands and results, without constants of masks."""
    reach = 0.0
    for value in (*node.inputs, *node.outputs):
        if not _is_float(value):
            continue
        array = constant(value)
        if array is None:
            reach = max(reach, ranges.get(value.name, 0.0))
        elif array.size and (size := float(np.abs(array).max())) < MASKED:
            reach = max(reach, size)
    return reach


_COUNT = "counts positions"
_PATH_SCORE = "path scores of the CRF"
# A logit less the log-sum-exp: two large numbers, whose difference is near 0.
_LOG_PROBABILITY = "log-probabilities"


def _is_count(plan: PrecisionPlan, value: ir.Value) -> bool:
    node = value.producer()
    return _from_integers(node) or plan.kept.get(node) == _COUNT


def _is_path_score(plan: PrecisionPlan, value: ir.Value) -> bool:
    node = value.producer()
    if node is None:
        return False
    fixed = value.index() in _FP32_OUTPUTS.get(node.op_type, ())
    return fixed or plan.kept.get(node) == _PATH_SCORE


def _is_log_probability(plan: PrecisionPlan, value: ir.Value) -> bool:
    node = value.producer()
    if node is None:
        return False
    return node.op_type == "ReduceLogSumExp" or plan.kept.get(node) == _LOG_PROBABILITY


def _keep_back_to_product(plan: PrecisionPlan, node: ir.Node, reason: str) -> None:
    """Keep ``node`` and the nodes before it in FP32, back to the last product."""
    while True:
        plan.kept.setdefault(node, reason)
        operands = _inner(node)
        if node.op_type in _PRODUCTS or len(operands) != 1 or not used_once(operands[0]):
            return
        node = operands[0].producer()
        if node is None or node.op_type not in _LOW:
            return


def _better_in_fp32(plan: PrecisionPlan, node: ir.Node) -> bool:
    """Whether only FP32 nodes read the result, and the operands need at most one cast."""
    uses = [use for value in node.outputs for use in value.uses()]
    if not uses or any(plan.input_type(reader, index) != FP32 for reader, index in uses):
        return False
    operands = [value for value in _inner(node) if not _from_integers(value.producer())]
    return sum(_type(plan, value) != FP32 for value in operands) <= 1


def _all_read_low(plan: PrecisionPlan, value: ir.Value) -> bool:
    uses = value.uses()
    return not value.is_graph_output() and all(
        plan.input_type(node, index) != FP32 for node, index in uses
    )


def _type(plan: PrecisionPlan, value: ir.Value) -> ir.DataType:
    return FP32 if value.producer() is None else plan.output_type(value)


def _cast(graph: ir.Graph, value: ir.Value, wanted: ir.DataType, casts: dict) -> ir.Value:
    """Return ``value`` in another type, from one Cast after its producer that all readers share."""
    key = (value, wanted)
    if key not in casts:
        name = f"{value.name}.{wanted.name.lower()}"
        node = ir.node("Cast", [value], {"to": int(wanted)}, name=name)
        node.outputs[0].name, node.outputs[0].shape = name, value.shape
        node.outputs[0].dtype = wanted
        if value.producer() is None:
            graph.insert_before(graph[0], node)
        else:
            graph.insert_after(value.producer(), node)
        casts[key] = node.outputs[0]
    return casts[key]


def _converted(graph: ir.Graph, value: ir.Value, low: ir.DataType, casts: dict) -> ir.Value:
    """Return a constant in low precision; clip values out of range (masks) to the largest number."""
    key = (value, low)
    if key not in casts:
        largest = float(ml_dtypes.finfo(low.numpy()).max)
        array = np.clip(constant(value), -largest, largest).astype(low.numpy())
        name = f"{value.name}.{low.name.lower()}"
        converted = ir.Value(name=name, const_value=ir.tensor(array, dtype=low, name=name))
        converted.shape, converted.dtype = value.shape, low
        graph.register_initializer(converted)
        casts[key] = converted
    return casts[key]


def _shorten_names(graph: ir.Graph, low: ir.DataType) -> None:
    """Give a converted constant its old name if the FP32 constant has no readers left."""
    suffix = f".{low.name.lower()}"
    for name, value in [*graph.initializers.items()]:
        short = name.removesuffix(suffix)
        if name.endswith(suffix) and short not in graph.initializers:
            del graph.initializers[name]
            value.name = value.const_value.name = short
            graph.initializers[short] = value
