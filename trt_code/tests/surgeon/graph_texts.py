"""Small graphs from ONNX's text form."""

import numpy as np
import onnx

HEADER = '<ir_version: 10, opset_import: ["" : {opset}, "lite" : 1]>'


def model(text: str, opset: int = 20, **constants) -> onnx.ModelProto:
    """A whole graph; ``constants`` become its initializers."""
    parsed = onnx.parser.parse_model(f"{HEADER.format(opset=opset)}\n{text}")
    for name, array in constants.items():
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    try:
        return onnx.shape_inference.infer_shapes(parsed)
    except onnx.shape_inference.InferenceError:  # some of these graphs are invalid ONNX
        return parsed


def body(text: str, inputs: str = "float[B,T] x", output: str = "float[B,T] y", **kwargs):
    """A graph of the nodes in ``text``, with one input and one output unless others are given."""
    return model(f"g ({inputs}) => ({output}) {{ {text} }}", **kwargs)
