"""Opens ONNX files in ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime

from onnx_export.marks import check_metadata
from train_model.cli import UserError
from train_model.file_sets import settle

if TYPE_CHECKING:
    import onnx

# The folder of a message's external weights; the default is the working folder.
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


def open_session(
    path: Path,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    threads: int = 0,
    model: "onnx.ModelProto | None" = None,
    **options: Any,
) -> onnxruntime.InferenceSession:
    """Open a file of this project; look at others first (``onnx_export.onnx_file.read_graph``).

    Args:
        path: the file.
        providers: ONNX Runtime's.
        threads: CPU threads; 0 for all.
        model: what to run instead of the file, with its weights where the file's are.
        options: of ``InferenceSession``.

    Raises:
        UserError: ONNX Runtime refuses it, or its weights are of another export.
    """
    settle(path.parent)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 4  # errors are raised anyway, so do not log them too
    try:
        source = str(path)
        if model is not None:
            source = model.SerializeToString()
            settings.add_session_config_entry(WEIGHTS_FOLDER, str(path.parent.resolve()))
        session = onnxruntime.InferenceSession(
            source, settings, providers=list(providers), **options
        )
    except Exception as error:  # onnxruntime's own types differ between versions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"ONNX Runtime refuses {path}: {reason}") from error
    check_metadata(session.get_modelmeta().custom_metadata_map, path)
    return session
