"""Reads untrusted ONNX files, and writes files atomically.

Weights that do not fit into the ONNX file are in ``<name>.data`` in the same folder. Both files have the same
hash of the weights, the graph in its metadata and the data at its end, so that a graph is not read with the
weights of another export. In the same way, the halves of a network have a hash of both, ``pair``.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from onnx_export.graph_bounds import excess
from onnx_export.marks import MARK, PAIR, WEIGHTS, check_mark, weights_names
from train_model.cli import UserError
from train_model.file_sets import replace_together, settle
from train_model.scratch import locked, scratch_folder

# A protobuf message ends at 2 GiB; larger weights go into a separate file.
EXTERNAL_DATA_ABOVE = 2**31 - 2**24
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def load_onnx(path: str | Path) -> onnx.ModelProto:
    """Read a model with its weights, wherever they are.

    Raises:
        UserError: see :func:`read_graph`.
    """
    path = Path(path)
    model = read_graph(path)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise UserError(f"{path}: its weights cannot be read: {error}") from error
    return model


def read_graph(path: str | Path) -> onnx.ModelProto:
    """Read a model; check weights in another file without loading them.

    Raises:
        UserError: the file is missing, damaged or not an ONNX model; its weights' file is gone, in
            another folder, or of another export; a weight is not a finite number; or the graph asks for
            more than any graph of this project (``onnx_export.graph_bounds``).
    """
    path = Path(path)
    settle(path.parent)
    if not path.is_file():
        raise UserError(f"there is no ONNX file {path}; make one (make onnx)")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise UserError(f"{path} is damaged or no ONNX file; make it again (make onnx)") from error
    if not model.graph.node or not model.graph.output:
        raise UserError(f"{path} is damaged or no ONNX file: it has no graph; make it again")
    if reason := excess(model):
        raise UserError(f"{path} is refused: {reason}; make it again (make onnx)")
    missing = _unknown_inputs(model.graph)
    if missing:
        raise UserError(f"{path} is damaged: nothing produces {missing[0]}; make it again")
    for file in weight_files(model, path):
        check_mark(file, metadata_of(model).get(WEIGHTS), path)
    for tensor in model.graph.initializer:
        _check_weight(tensor, path)
    return model


def weight_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """Return the files of the weights of ``model``, which must be in the folder of ``path``.

    Raises:
        UserError: one is missing, or not in the folder of ``path``.
    """
    tensors = filter(uses_external_data, _tensors(model))
    try:
        names = {ExternalDataInfo(tensor).location for tensor in tensors}
    except ValueError as error:
        raise UserError(f"{path}: its weights cannot be read: {error}") from error
    files = []
    for name in sorted(names):
        file = path.parent / name
        if not name or Path(name).name != name or file.is_symlink():
            raise UserError(
                f"{path} keeps weights in {name!r}, which is not a file of its folder; export it again"
            )
        if not file.is_file():
            raise UserError(f"{path} keeps weights in {file}, which is missing; export it again")
        files.append(file)
    return files


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """The metadata of a file."""
    return {entry.key: entry.value for entry in model.metadata_props}


def save_onnx(model: ir.Model, path: Path) -> None:
    """Write ``model`` and check the file; only a checked file replaces an existing one.

    Weights that do not fit into the file go to ``<name>.data`` in the same folder.

    Raises:
        UserError: the folder cannot be written to, or a weight is not a finite number.
    """
    _save({path: model})


def save_pair(models: Mapping[Path, ir.Model]) -> None:
    """Write the halves of one network, as :func:`save_onnx` does; they are replaced together."""
    digest = hashlib.sha256()
    for model in models.values():
        digest.update(fingerprint(model).encode())
    for model in models.values():
        model.metadata_props[PAIR] = digest.hexdigest()
    _save(models)


def fingerprint(model: ir.Model) -> str:
    """A hash of the nodes and weights of a graph."""
    digest = hashlib.sha256()
    for node in model.graph:
        digest.update(f"{node.op_type} {[value and value.name for value in node.inputs]}".encode())
    for name, value in sorted(model.graph.initializers.items()):
        array = np.ascontiguousarray(value.const_value.numpy())
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _save(models: Mapping[Path, ir.Model]) -> None:
    (folder,) = {path.parent for path in models}
    try:
        settle(folder)  # otherwise the drafts of a killed process stay
        with scratch_folder(next(iter(models))) as scratch:
            drafts, unused = {}, []
            for path, model in models.items():
                _refuse_infinite(model, path)
                drafts[scratch / path.name] = path
                unused += _write_draft(model, scratch / path.name, path)
            if len(drafts) == 1:
                ((draft, path),) = drafts.items()
                draft.replace(path)
            else:
                replace_together(drafts)
            for file in unused:
                file.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error


def _write_draft(model: ir.Model, draft: Path, path: Path) -> list[Path]:
    """Write the graph as ``draft``, and its weights next to ``path`` if they need a file.

    The file of the weights has a name that the graph now under ``path`` does not read.

    Returns:
        The files of weights that nothing reads once ``draft`` is at ``path``.
    """
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    candidates = [path.with_name(name) for name in weights_names(path.name)]
    if size <= EXTERNAL_DATA_ABOVE:
        model.metadata_props.pop(WEIGHTS, None)
        ir.save(model, draft)
        onnx.checker.check_model(str(draft), full_check=True)
        return candidates
    model.metadata_props[WEIGHTS] = fingerprint(model)
    with locked(path.parent):
        data = next(file for file in candidates if file not in _read_now(path))
        ir.save(model, draft, external_data=data.name)
        with draft.with_name(data.name).open("ab") as file:
            file.write(MARK + model.metadata_props[WEIGHTS].encode())
        onnx.checker.check_model(str(draft), full_check=True)
        draft.with_name(data.name).replace(data)
    return [file for file in candidates if file != data]


def _read_now(path: Path) -> list[Path]:
    """The files of weights that the graph under ``path`` reads, if there is one."""
    if not path.is_file():
        return []
    try:
        return weight_files(onnx.load(path, load_external_data=False), path)
    except (DecodeError, ValueError, UserError):
        return []


def _check_weight(tensor: onnx.TensorProto, path: Path) -> None:
    try:
        array = _values(tensor, path)
    except Exception as error:  # the type of onnx's error depends on the damage
        raise UserError(
            f"{path} is damaged: weight {tensor.name} is not of its shape and type; make it again"
        ) from error
    if tensor.data_type in _FLOATS and not _finite(array):
        raise UserError(
            f"{path}: weight {tensor.name} has values that are infinite or not numbers; export it again"
        )


def _values(tensor: onnx.TensorProto, path: Path) -> np.ndarray:
    """The values of a weight, mapped into memory where they are in another file."""
    if not uses_external_data(tensor):
        return onnx.numpy_helper.to_array(tensor)
    info = ExternalDataInfo(tensor)
    dtype, shape = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type), tuple(tensor.dims)
    if info.length is not None and info.length != dtype.itemsize * int(
        np.prod(shape, dtype=object)
    ):
        raise ValueError("the length does not fit the shape")
    place = path.parent / info.location
    return np.memmap(place, dtype, "r", offset=info.offset or 0, shape=shape)


def _finite(array: np.ndarray) -> bool:
    """Whether all are numbers, and no element of a matrix or vector is infinite; a mask's constant may be."""
    return not np.isnan(array).any() if array.size == 1 else bool(np.isfinite(array).all())


def _refuse_infinite(model: ir.Model, path: Path) -> None:
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor.dtype.is_floating_point() and not _finite(tensor.numpy().astype(np.float32)):
            raise UserError(
                f"{path} is not written: weight {name} has values that are infinite or not numbers"
            )


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


@contextlib.contextmanager
def runnable(model: ir.Model) -> Iterator[tuple[onnx.ModelProto, Path | None]]:
    """A message of ``model`` for a runtime, and the folder of its weights if they do not fit the message."""
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    if size <= EXTERNAL_DATA_ABOVE:
        yield ir.serde.serialize_model(model), None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model, path, external_data="weights")
        yield onnx.load(path, load_external_data=False), Path(folder)


def _unknown_inputs(graph: onnx.GraphProto) -> list[str]:
    """Return names that nodes read but the main graph does not define, as in a truncated file."""
    known = {item.name for item in (*graph.input, *graph.initializer)} | {""}
    for node in graph.node:
        for name in node.input:
            if name not in known:
                return [name]
        known.update(node.output)
    return [output.name for output in graph.output if output.name not in known]
