"""The rules of the lint: each function takes a graph and yields findings."""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from onnx_export.symbols import OPERATORS
from onnx_export.symbols.schema import NAMING, Form, Type
from trt_code.lint import operators

T = onnx.TensorProto
LARGEST_K = 3840


@dataclasses.dataclass(frozen=True)
class Finding:
    """A part of a graph that TensorRT refuses, or computes differently from the graph."""

    node: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}; {self.remedy}"


class Graph:
    """A model with its values looked up by name.

    Args:
        model: the model, shapes and types inferred as far as the file has them.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.nodes = model, model.graph.node
        graph = model.graph
        self.inputs = {item.name for item in graph.input}
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.producers = {name: node for node in graph.node for name in node.output if name}
        items = (*graph.input, *graph.output, *graph.value_info)
        self.types = {item.name: item.type.tensor_type.elem_type for item in items}
        self.types |= {name: tensor.data_type for name, tensor in self.initializers.items()}
        self.ranks = {
            item.name: len(item.type.tensor_type.shape.dim)
            for item in items
            if item.type.tensor_type.HasField("shape")
        }
        self.ranks |= {name: len(tensor.dims) for name, tensor in self.initializers.items()}

    def constant(self, name: str) -> np.ndarray | None:
        """Return the value of an initializer or a Constant node."""
        if name in self.initializers:
            return onnx.numpy_helper.to_array(self.initializers[name])
        node = self.producers.get(name)
        if node is None or node.op_type != "Constant":
            return None
        return next(
            (onnx.numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"),
            np.array(onnx.helper.get_attribute_value(node.attribute[0])),
        )

    def is_constant(self, name: str) -> bool:
        """Whether a value depends only on initializers and constants."""
        pending, seen = [name], set()
        while pending:
            name = pending.pop()
            if not name or name in seen or name in self.initializers:
                continue
            seen.add(name)
            node = self.producers.get(name)
            if node is None:
                return False
            pending += node.input
        return True


def attributes(node: onnx.NodeProto) -> dict:
    """Return the attributes of a node by name."""
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def label(node: onnx.NodeProto) -> str:
    """Return the text by which a finding names a node."""
    return f"{node.name or node.output[0]} ({node.op_type})"


def type_name(elem_type: int) -> str:
    """Return the name of an ONNX element type: INT64 for 7."""
    return T.DataType.Name(elem_type)


def check_file(graph: Graph) -> Iterator[Finding]:
    """Check the parts of the file that the parser reads before any node."""
    for function in graph.model.functions:
        yield Finding(
            f"function {function.name}",
            "the parser takes a function of that name instead of the plugin",
            "strip it (the surgeon's pass `functions`)",
        )
    for item in (*graph.model.graph.input, *graph.model.graph.output):
        if item.type.tensor_type.elem_type in operators.NO_TYPE:
            kind = type_name(item.type.tensor_type.elem_type)
            yield Finding(item.name, f"TensorRT has no {kind}", "cast outside the graph")
        elif item.type.tensor_type.elem_type == T.DOUBLE:
            yield Finding(item.name, "TensorRT makes FLOAT of DOUBLE", "cast outside the graph")


def check_support(graph: Graph) -> Iterator[Finding]:
    """Find operators that TensorRT does not import, and types that an importer refuses."""
    supported = operators.supported()
    for node in graph.nodes:
        if node.op_type in OPERATORS:
            continue
        if node.op_type not in supported:
            yield Finding(
                label(node),
                "TensorRT imports no such operator and the project has no such plugin",
                "rewrite it with supported operators",
            )
            continue
        if node.op_type in operators.NEEDS_PLUGIN:
            yield Finding(
                label(node),
                "TensorRT RTX imports it by a plugin that it does not have",
                "use a mask and Where",
            )
        kinds = [graph.types.get(name) for name in node.input if name]
        refused = operators.REFUSED_TYPES.get(node.op_type, ())
        kind = next((kind for kind in kinds if kind in refused), None)
        if kind is not None:
            yield Finding(
                label(node), f"{type_name(kind)} is not supported here", "cast to a floating type"
            )


def check_constants(graph: Graph) -> Iterator[Finding]:
    """Find inputs that must be constant, because TensorRT reads them while it builds the network."""
    for node in graph.nodes:
        for index, name in operators.CONSTANT_INPUTS.get(node.op_type, {}).items():
            if len(node.input) <= index or not node.input[index]:
                continue
            if not graph.is_constant(node.input[index]):
                yield Finding(label(node), f"{name} is not a constant", "make it an initializer")


def check_limits(graph: Graph) -> Iterator[Finding]:
    """Find sizes, attributes and outputs that the importer or the builder refuses."""
    for node in graph.nodes:
        attrs = attributes(node)
        if node.op_type == "TopK":
            k = graph.constant(node.input[1]) if len(node.input) > 1 else None
            if k is not None and int(k.item()) > LARGEST_K:
                yield Finding(label(node), f"k={k.item()} is above {LARGEST_K}", "take fewer")
        elif node.op_type in ("ScatterElements", "ScatterND"):
            if attrs.get("reduction", b"none") != b"none":
                yield Finding(
                    label(node), "`reduction` is not supported", "scatter into zeros, then add"
                )
        elif node.op_type in ("LayerNormalization", "MaxPool") and any(node.output[1:]):
            yield Finding(label(node), "only the first output is supported", "drop the others")


def check_scatter_types(graph: Graph) -> Iterator[Finding]:
    """Find scatters of updates into data of another type, which older exporters write."""
    for node in graph.nodes:
        if node.op_type not in ("ScatterND", "ScatterElements"):
            continue
        data, updates = (graph.types.get(node.input[index]) for index in (0, 2))
        if data and updates and data != updates:
            yield Finding(
                label(node),
                f"data is {type_name(data)} and updates are {type_name(updates)}",
                "cast the updates",
            )


def check_quantization(graph: Graph) -> Iterator[Finding]:
    """Find Q/DQ nodes other than symmetric INT8 with positive scales.

    TensorRT turns UINT8 into INT8 with only a warning.
    """
    for node in graph.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale = graph.constant(node.input[1])
        if scale is not None and not (scale > 0).all():
            yield Finding(label(node), "a scale is not positive", "calibrate with a larger range")
        zero = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if zero is None:
            if node.op_type == "QuantizeLinear":
                yield Finding(
                    label(node),
                    "without a zero point ONNX means UINT8 and TensorRT INT8",
                    "give an int8 zero point of zeros",
                )
        elif np.any(np.asarray(zero, np.float32)):
            yield Finding(label(node), "the zero point is not zero", "quantize symmetrically")
        elif zero.dtype in (np.uint8, np.int16, np.uint16):
            yield Finding(label(node), f"the zero point is {zero.dtype}", "make it int8")


def check_quantized_products(graph: Graph) -> Iterator[Finding]:
    """Find products with only one quantized input: they build, but run slower and not in INT8."""
    for node in graph.nodes:
        if node.op_type not in ("Gemm", "MatMul") or len(node.input) < 2:
            continue
        producers = [graph.producers.get(name) for name in node.input[:2]]
        quantized = [p is not None and p.op_type == "DequantizeLinear" for p in producers]
        if any(quantized) and not all(quantized):
            which = ("first", "second")[quantized.index(False)]
            yield Finding(
                label(node),
                f"its {which} input is not quantized, so TensorRT multiplies in higher precision",
                "quantize both inputs or neither",
            )


def check_small_scales(graph: Graph) -> Iterator[Finding]:
    """Find scales that FP16 cannot represent exactly: they build, but the results are wrong."""
    for node in graph.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale = graph.constant(node.input[1])
        if scale is None or scale.dtype != np.float16:
            continue
        if ((scale > 0) & (scale < np.finfo(np.float16).tiny)).any():
            yield Finding(
                label(node),
                "a scale is below the normal numbers of FP16, which lose digits",
                "calibrate with a larger range",
            )


def check_plugins(graph: Graph) -> Iterator[Finding]:
    """Check inputs, outputs and required attributes of plugin nodes; TensorRT casts nothing for a plugin."""
    for node in graph.nodes:
        operator = OPERATORS.get(node.op_type)
        if operator is None:
            continue
        attrs = attributes(node)
        try:
            form = operator.form(attrs)
            form.function(len(node.input))
        except ValueError as error:
            yield Finding(label(node), str(error), "let the surgeon write the node")
            continue
        for name in form.needs:
            if name not in attrs:
                yield Finding(
                    label(node), f"attribute {name} is missing", "let the surgeon write it"
                )
        yield from _check_tensors(graph, node, form)
        count = sum(map(bool, node.output))
        if count != len(form.outputs):
            yield Finding(
                label(node),
                f"{count} outputs",
                f"the plugin has {len(form.outputs)}; name them all",
            )


def _check_tensors(graph: Graph, node: onnx.NodeProto, form: Form) -> Iterator[Finding]:
    """Check types and ranks of the inputs of a plugin node."""
    data = graph.types.get(node.input[0])
    for name, tensor in zip(node.input, form.inputs, strict=False):
        got, wanted = graph.types.get(name), tensor.type.elements
        if tensor.type == Type.DATA and data in wanted:
            wanted = (data,)
        if got and got not in wanted:
            yield Finding(
                label(node),
                f"input {name} is {type_name(got)}",
                f"cast it to {' or '.join(map(type_name, wanted))}",
            )
        rank = graph.ranks.get(name)
        if rank is not None and not tensor.fits_rank(rank):
            yield Finding(
                label(node),
                f"input {name} is of rank {rank}",
                f"give {tensor.name} as [{tensor.dims}]",
            )


def check_declared(graph: Graph, fields: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """Find attributes that the plugins do not declare as fields; the parser drops these."""
    kinds = {
        onnx.AttributeProto.INT: "INT32",
        onnx.AttributeProto.INTS: "INT32",
        onnx.AttributeProto.FLOAT: "FLOAT32",
        onnx.AttributeProto.FLOATS: "FLOAT32",
        onnx.AttributeProto.STRING: "CHAR",
    }
    for node in graph.nodes:
        if node.op_type not in OPERATORS:
            continue
        if node.op_type not in fields:
            yield Finding(
                label(node), "the plugin library has no such plugin", "run `make plugins`"
            )
            continue
        declared = fields[node.op_type]
        for item in node.attribute:
            if item.name in NAMING:
                continue
            if item.name not in declared:
                yield Finding(
                    label(node),
                    f"the plugin does not declare {item.name}, so the parser drops it",
                    "declare it in the creator's getFieldNames",
                )
            elif kinds.get(item.type) != declared[item.name]:
                yield Finding(
                    label(node),
                    f"{item.name} arrives as {kinds.get(item.type, 'nothing')}, "
                    f"the plugin declares {declared[item.name]}",
                    "write it as the declared type",
                )


# Graphs that TensorRT refuses or computes differently; doc/graph_surgery.md quotes its message for each.
RULES = (
    check_file,
    check_support,
    check_constants,
    check_limits,
    check_scatter_types,
    check_quantization,
    check_plugins,
)
# Patterns that TensorRT builds, but that this project does not want in an INT8 graph; see doc/int8.md.
INT8_RULES = (check_quantized_products, check_small_scales)
