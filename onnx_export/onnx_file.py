"""Reads ONNX files that may be anything, and writes ones that are whole or not there."""

import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from train_model.cli import UserError

# A protobuf message ends at 2 GiB; weights above this go into a file beside the graph.
EXTERNAL_DATA_ABOVE = 2**31 - 2**24


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
    for tensor in model.graph.initializer:
        try:
            onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # a view, so cheap; which type onnx raises depends on the damage
            raise UserError(
                f"{path} is damaged: weight {tensor.name} is not of its shape and type; make it again"
            ) from error
    return model


def save_onnx(model: ir.Model, path: Path) -> None:
    """Write ``model`` and check the file; an existing one is replaced only by a checked one.

    Weights go to ``<name>.data`` beside it where they do not fit one file.

    Raises:
        UserError: the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            weights = sum(value.const_value.nbytes for value in model.graph.initializers.values())
            data = f"{path.name}.data" if weights > EXTERNAL_DATA_ABOVE else None
            ir.save(model, draft, external_data=data)
            onnx.checker.check_model(str(draft), full_check=True)
            if data:
                draft.with_name(data).replace(path.with_name(data))
            else:
                path.with_name(f"{path.name}.data").unlink(missing_ok=True)
            draft.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _unknown_inputs(graph: onnx.GraphProto) -> list[str]:
    """Names that nodes read and nothing in the main graph gives; a file cut short has some."""
    known = {item.name for item in (*graph.input, *graph.initializer)} | {""}
    for node in graph.node:
        for name in node.input:
            if name not in known:
                return [name]
        known.update(node.output)
    return [output.name for output in graph.output if output.name not in known]
