"""Compares the types and shapes that TensorRT infers for a graph with those in its ONNX file.

TensorRT shows the content of a plan only on a GPU, but it shows the parsed network on any machine.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from train_model.cli import UserError
from trt_code.engine.python_creators import registered
from trt_code.engine.tensorrt_api import process_logger

# TensorRT's names of ONNX's element types, where they differ.
_NAMES = {"FLOAT16": "HALF", "BFLOAT16": "BF16"}


@dataclass(frozen=True)
class Inspection:
    """The comparison of a parsed network with its file.

    Attributes:
        compared: the number of tensors that TensorRT and the file both know by name.
        known: the number of inner tensors whose types the file has.
        differences: one line for each tensor of another type, rank or size.
        outputs: shape and NumPy type of every output, by name, as TensorRT infers them.
    """

    compared: int
    known: int
    differences: tuple[str, ...]
    outputs: dict[str, tuple[tuple[int, ...], Any]]


def inspect(
    trt: ModuleType, model: onnx.ModelProto, sizes: Mapping[str, int], path: Path | None = None
) -> Inspection:
    """Parse ``model`` at fixed input sizes, and compare every tensor that the file describes.

    Nodes for plugins are parsed with creators in Python, unless the plugin library is loaded.

    Args:
        model: a patched graph with its weights, or with references to them in files next to ``path``.
        sizes: the sizes of the inputs' free axes, by name (``profiles.named_sizes``).
        path: the graph's file.

    Raises:
        UserError: TensorRT cannot parse the graph.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    given = {}  # a size of another name, such as a whole network's canvas, follows from these
    for item in fixed.graph.input:
        for dim in item.type.tensor_type.shape.dim:
            if name := dim.dim_param:
                given[name] = dim.dim_value = sizes[name]
    described = [*model.graph.value_info, *model.graph.output]
    known = {item.name: item.type.tensor_type for item in described}
    has_plugins = any(node.domain for node in model.graph.node)
    with registered(trt) if has_plugins else contextlib.nullcontext():
        builder = trt.Builder(process_logger(trt))
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(typed)
        parser = trt.OnnxParser(network, process_logger(trt))
        if not parser.parse(fixed.SerializeToString(), path and str(path)):
            raise UserError(f"TensorRT cannot read it: {process_logger(trt).first_error()}")
        outputs = {
            tensor.name: (tuple(tensor.shape), trt.nptype(tensor.dtype))
            for tensor in map(network.get_output, range(network.num_outputs))
        }
        names, differences = set(), []
        for layer in map(network.get_layer, range(network.num_layers)):
            for tensor in map(layer.get_output, range(layer.num_outputs)):
                if tensor.name in known:
                    names.add(tensor.name)
                    differences += _differences(tensor, known[tensor.name], given)
    return Inspection(len(names), len(known), tuple(differences), outputs)


def _differences(
    tensor: Any, expected: onnx.TypeProto.Tensor, sizes: Mapping[str, int]
) -> list[str]:
    """Return a line if TensorRT's ``tensor`` contradicts the file; sizes that the file leaves open fit."""
    element = onnx.TensorProto.DataType.Name(expected.elem_type)
    shape = tuple(tensor.shape)
    if tensor.dtype.name != _NAMES.get(element, element):
        return [f"{tensor.name} is {tensor.dtype.name} and the file says {element}"]
    if not expected.HasField("shape"):
        return []
    dims = [
        dim.dim_value if dim.HasField("dim_value") else sizes.get(dim.dim_param)
        for dim in expected.shape.dim
    ]
    if len(dims) == len(shape) and all(
        size in (None, real) for size, real in zip(dims, shape, strict=True)
    ):
        return []
    return [f"{tensor.name} has shape {list(shape)} and the file says {dims}"]
