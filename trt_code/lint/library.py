"""Asks the installed TensorRT which operators it imports, and whether a graph parses.

This does not need the plugin library: the plugins have creators in Python
(``trt_code.engine.python_creators``).
"""

import functools
from pathlib import Path
from types import ModuleType

import onnx

from train_model.cli import UserError
from trt_code.engine.python_creators import registered
from trt_code.engine.tensorrt_api import load_tensorrt, process_logger


def installed() -> ModuleType | None:
    """Return TensorRT if it can make a builder here (the full TensorRT needs a GPU), else None."""
    try:
        trt = load_tensorrt()
        trt.Builder(process_logger(trt))
    except (UserError, TypeError, RuntimeError):  # TypeError: it cannot make a builder
        return None
    return trt


@functools.cache
def operators_of(trt: ModuleType) -> frozenset[str]:
    """The operators of ONNX that TensorRT imports."""
    _builder, _network, parser = _new_parser(trt)
    names = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    return frozenset(name for name in names if parser.supports_operator(name))


def parse_errors(trt: ModuleType, path: Path) -> list[tuple[str, str]]:
    """Return the parser's errors on a file, each with its node; empty if it parses."""
    logger = process_logger(trt)
    with registered(trt):
        _builder, network, parser = _new_parser(trt)
        if parser.parse_from_file(str(path)):
            errors = []
        else:
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
        found = [
            (f"{error.node_name()} ({error.node_operator()})", " ".join(error.desc().split()))
            for error in errors
        ]
        del parser, network  # before the creators, to which the layers refer
    logger.errors.clear()
    return found


def _new_parser(trt: ModuleType) -> tuple:
    """A parser, with the network and the builder, which must outlive it."""
    logger = process_logger(trt)
    builder = trt.Builder(logger)
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    return builder, network, trt.OnnxParser(network, logger)
