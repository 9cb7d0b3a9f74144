"""Emulates low precision: FP32 arithmetic, with each result rounded to FP16 or BF16.

ONNX Runtime's CPU has no BF16 arithmetic, and computes FP16 graphs in FP32 without rounding between the
nodes, so that it hides overflows there. A GPU accumulates in FP32 and rounds what a layer writes;
here every node that computes is followed by that rounding.
"""

import onnx

LOW = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
FP32 = onnx.TensorProto.FLOAT

# These only pass on or select values, which are rounded already.
_EXACT = frozenset(
    ("Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Relu")
) | {"Reshape", "Slice", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Unsqueeze", "Where"}


def rounded_in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of ``model`` without FP16 or BF16 arithmetic that computes as a GPU, up to order of sums.

    Values that are FP16 or BF16 in the main graph are FP32 here and hold only numbers of that type;
    the graph's inputs and outputs must not be of these types.

    Raises:
        ValueError: the model has no type for a value, or a FP16 or BF16 input or output.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    types = _types(graph)
    if not set(LOW) & {*types.values(), *_cast_targets(graph)}:
        return result
    for item in (*graph.input, *graph.output):
        if types[item.name] in LOW:
            raise ValueError(f"{item.name} is a FP16 or BF16 input or output")
    for tensor in graph.initializer:
        if tensor.data_type in LOW:
            array = onnx.numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    nodes = [*graph.node]
    del graph.node[:], graph.value_info[:]
    for node in nodes:
        if node.op_type == "Cast":
            for item in node.attribute:
                if item.name == "to" and item.i in LOW:
                    item.i = FP32
        computed = [name for name in node.output if name and node.op_type not in _EXACT]
        rounding = []
        for name in computed:
            if name not in types:
                raise ValueError(f"the type of {name} is not known")
            if types[name] in LOW:
                node.output[[*node.output].index(name)] = f"{name}.unrounded"
                rounding += _rounding(name, types[name])
        graph.node.extend([node, *rounding])
    return result


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    items = (*graph.input, *graph.output, *graph.value_info)
    types = {item.name: item.type.tensor_type.elem_type for item in items}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _cast_targets(graph: onnx.GraphProto) -> list[int]:
    casts = [node for node in graph.node if node.op_type == "Cast"]
    return [onnx.helper.get_node_attr_value(node, "to") for node in casts]


def _rounding(name: str, low: int) -> list[onnx.NodeProto]:
    make = onnx.helper.make_node
    return [
        make("Cast", [f"{name}.unrounded"], [f"{name}.low"], f"{name}.round", to=low),
        make("Cast", [f"{name}.low"], [name], f"{name}.widen", to=FP32),
    ]
