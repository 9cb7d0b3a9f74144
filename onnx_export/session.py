"""Opens ONNX files in ONNX Runtime."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime

from onnx_export.checked import is_checked, remember
from train_model.cli import UserError
from train_model.file_sets import settle

if TYPE_CHECKING:
    import onnx

# The folder of a message's external weights; the default is the working folder.
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
# Keep int8 inputs of products as int8; otherwise ONNX Runtime makes uint8 of them on x86-64.
INT8_BY_INT8 = "session.qdqisint8allowed"


def session_options(threads: int = 0) -> onnxruntime.SessionOptions:
    """Return the options of a session whose INT8 products are exact.

    On x86-64 without VNNI, ONNX Runtime adds products of uint8 and int8 in 16 bits, and the sums saturate.
    Its sums of int8 and int8 are exact. With VNNI both are exact, and uint8 by int8 is the fast form.

    Args:
        threads: CPU threads; 0 for all.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised anyway, so do not log them too
    if not _has_vnni():
        options.add_session_config_entry(INT8_BY_INT8, "1")
    return options


@functools.cache
def _has_vnni() -> bool:
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def open_session(
    path: Path,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    threads: int = 0,
    model: "onnx.ModelProto | None" = None,
    trusted: bool = False,
    **options: Any,
) -> onnxruntime.InferenceSession:
    """Open a file after a look at what it would make ONNX Runtime do.

    Args:
        path: the file.
        providers: ONNX Runtime's.
        threads: CPU threads; 0 for all.
        model: what to run instead of the file, with its weights where the file's are.
        trusted: leave the look out, which needs the package onnx: a program that copied the file has had it.
        options: of ``InferenceSession``.

    Raises:
        UserError: see :func:`onnx_export.onnx_file.read_graph`; or ONNX Runtime refuses it.
    """
    settle(path.parent)
    if model is None:
        if not trusted:
            _check(path)
    else:
        _check_bounds(model, path)  # it has functions that the file does not have
    settings = session_options(threads)
    try:
        source = str(path)
        if model is not None:
            source = model.SerializeToString()
            settings.add_session_config_entry(WEIGHTS_FOLDER, str(path.parent.resolve()))
        return onnxruntime.InferenceSession(source, settings, providers=list(providers), **options)
    except Exception as error:  # onnxruntime's own types differ between versions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"ONNX Runtime refuses {path}: {reason}") from error


def _check(path: Path) -> None:
    if is_checked(path):
        return
    from onnx_export.onnx_file import read_graph, weight_files

    if not weight_files(read_graph(path), path):
        remember(path)


def _check_bounds(model: "onnx.ModelProto", path: Path) -> None:
    from onnx_export.graph_bounds import excess

    if reason := excess(model):
        raise UserError(f"{path} is refused: {reason}; make it again")
