"""Reads ONNX files that may be anything, and says in one line what is wrong with one."""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from train_model.cli import UserError


def load_onnx(path: str | Path) -> onnx.ModelProto:
    """Read a model with its weights, wherever they are.

    Raises:
        UserError: the file is missing, is no ONNX model or a damaged one, or its weights' file is gone.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no ONNX file {path}; make one (make onnx)")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise UserError(f"{path} is damaged or no ONNX file; make it again (make onnx)") from error
    if not model.graph.node or not model.graph.output:
        raise UserError(f"{path} is damaged or no ONNX file: it has no graph; make it again")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, onnx.checker.ValidationError) as error:
        raise UserError(f"{path}: its weights cannot be read: {error}") from error
    missing = _unknown_inputs(model.graph)
    if missing:
        raise UserError(f"{path} is damaged: nothing produces {missing[0]}; make it again")
    return model


def _unknown_inputs(graph: onnx.GraphProto) -> list[str]:
    """Names that nodes read and nothing in the main graph gives; a file cut short has some."""
    known = {item.name for item in (*graph.input, *graph.initializer)} | {""}
    for node in graph.node:
        for name in node.input:
            if name not in known:
                return [name]
        known.update(node.output)
    return [output.name for output in graph.output if output.name not in known]
