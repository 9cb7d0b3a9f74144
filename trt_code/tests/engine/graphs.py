"""A patched graph that is small enough to write for every test."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper


def write_graph(
    path: Path,
    shape=("batch", "src_len"),
    elem_type=TensorProto.INT64,
    functions=(),
    metadata=None,
    plugin=None,
):
    """Write a graph with the network's inputs and outputs, and inside at most one node, for ``plugin``."""
    nodes = [
        helper.make_node("Concat", ["src_tokens", "src_tokens"], ["output_tokens"], axis=1),
        helper.make_node("Cast", ["output_tokens"], ["output_scores"], to=TensorProto.FLOAT),
    ]
    if plugin:
        nodes.append(helper.make_node(plugin, ["output_scores"], ["unused"], domain="lite"))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("src_tokens", elem_type, shape)],
        [
            helper.make_tensor_value_info("output_tokens", TensorProto.INT64, ["batch", "canvas"]),
            helper.make_tensor_value_info("output_scores", TensorProto.FLOAT, ["batch", "canvas"]),
        ],
    )
    bodies = [
        helper.make_function(
            "lite",
            name,
            ["x"],
            ["y"],
            [helper.make_node("Identity", ["x"], ["y"])],
            [helper.make_opsetid("", 20)],
        )
        for name in functions
    ]
    model = helper.make_model(graph, functions=bodies)
    helper.set_model_props(model, {"max_source_positions": "127"} | (metadata or {}))
    onnx.save(model, path)
