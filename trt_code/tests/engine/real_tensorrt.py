"""The real TensorRT in tests: small graphs through its parser and builder, with plugin creators in Python.

TensorRT RTX needs no GPU for this. Tests that use ``tensorrt`` are skipped if it is not installed.
"""

import dataclasses
from types import ModuleType

import onnx
import pytest

from train_model.cli import UserError
from trt_code.engine.python_creators import registered
from trt_code.engine.tensorrt_api import Family, load_tensorrt, process_logger

# The sizes of a dynamic dimension in the profile: smallest, usual, largest.
PROFILE = (2, 4, 8)


def tensorrt(family: Family | None = None) -> ModuleType:
    """The installed TensorRT, of ``family`` if one is given; skips the test if there is none."""
    try:
        return load_tensorrt(family)
    except UserError as error:
        pytest.skip(str(error))


def installed() -> ModuleType | None:
    """Return the installed TensorRT, or None, for a test that also checks other things."""
    try:
        return load_tensorrt()
    except UserError:
        return None


@dataclasses.dataclass(frozen=True)
class Reply:
    """TensorRT's result for a graph.

    Attributes:
        refused_by: "parser", "builder", or "" if an engine was built.
        words: the errors, in one line.
        types: TensorRT's element types of the outputs, by name.
        plugins: the number of plugin layers in the parsed network.
    """

    refused_by: str
    words: str = ""
    types: dict[str, str] = dataclasses.field(default_factory=dict)
    plugins: int = 0


def build(trt: ModuleType, model: onnx.ModelProto, profile: tuple[int, ...] = PROFILE) -> Reply:
    """Parse and build ``model``; every dynamic dimension gets the sizes of ``profile``."""
    logger = process_logger(trt)
    logger.errors.clear()
    with registered(trt):
        builder = trt.Builder(logger)
        strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(strongly_typed)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(model.SerializeToString()):
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            return Reply("parser", " ".join(" ".join(e.desc().split()) for e in errors))
        config = builder.create_builder_config()
        _add_profile(builder, network, config, profile)
        plan = builder.build_serialized_network(network, config)
        outputs = [network.get_output(index) for index in range(network.num_outputs)]
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        return Reply(
            "" if plan is not None else "builder",
            "" if plan is not None else logger.first_error(),
            {item.name: item.dtype.name for item in outputs},
            sum(layer.type == trt.LayerType.PLUGIN_V3 for layer in layers),
        )


def _add_profile(builder, network, config, sizes: tuple[int, ...]) -> None:
    profile = builder.create_optimization_profile()
    used = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            length = max(1, int(tensor.shape[0]) if len(tensor.shape) else 1)
            profile.set_shape_input(tensor.name, *([size] * length for size in sizes))
        elif -1 in tuple(tensor.shape):
            shapes = [tuple(size if d < 0 else d for d in tensor.shape) for size in sizes]
            profile.set_shape(tensor.name, *shapes)
        else:
            continue
        used = True
    if used:
        config.add_optimization_profile(profile)
