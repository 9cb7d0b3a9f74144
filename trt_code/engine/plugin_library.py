"""Loading the plugin library (``liblite_plugins_trt<major>.so``) into TensorRT's registry."""

import re
from pathlib import Path
from types import ModuleType

from train_model.cli import UserError
from trt_code.engine.tensorrt_api import family_of, process_logger, title_of

DEFAULT_FOLDER = Path("build/plugins")

_loaded: dict[Path, object] = {}  # the registry refuses a second load of the same creators


def default_library(trt: ModuleType) -> Path:
    """Return the path to which ``make plugins`` writes the library for this TensorRT."""
    return DEFAULT_FOLDER / f"liblite_plugins_trt{_major(trt)}.so"


def load_plugins(trt: ModuleType, path: Path) -> None:
    """Register the plugins of the library at ``path``; a second call for the same file does nothing.

    Raises:
        UserError: the file is missing, is of another TensorRT major, or cannot be loaded.
    """
    path = path.resolve()
    if path in _loaded:
        return
    if not path.is_file():
        raise UserError(
            f"no plugin library at {path}; run `make plugins` or name it with --plugins"
        )
    major = _major(trt)
    named = re.search(r"_trt(\d+)\.so$", path.name)
    if named and int(named[1]) != major:
        raise UserError(
            f"{path} is built for TensorRT {named[1]} and this is {title_of(trt)}; "
            f"run `make plugins` against TensorRT {major}'s headers"
        )
    logger = process_logger(trt)
    # The registry reports to the logger of the process's first TensorRT object.
    trt.Runtime(logger)
    handle = trt.get_plugin_registry().load_library(str(path))
    if handle is None:
        raise UserError(
            f"TensorRT cannot load the plugins of {path}: {logger.first_error()}; "
            "run `make plugins` again, or see `ldd` on the file for a missing library"
        )
    _loaded[path] = handle


def _major(trt: ModuleType) -> int:
    """Return the TensorRT major version of the headers for ``trt``'s plugins."""
    return family_of(trt).plugin_major(trt.__version__)
