"""Reads the fields that plugins declare, from the operators' schemas or from a built library."""

from pathlib import Path

from onnx_export.symbols import OPERATORS
from train_model.cli import UserError
from trt_code.plugin_host.host import PluginHost

_FIELD_TYPES = {int: "INT32", float: "FLOAT32"}


def schema_fields() -> dict[str, dict[str, str]]:
    """Return each operator's attributes and the types that its plugin must declare for them."""
    return {
        name: {key: _FIELD_TYPES[item.type] for key, item in operator.attributes.items()}
        for name, operator in OPERATORS.items()
    }


def find_library(folder: Path = Path("build/plugins")) -> Path | None:
    """Return the newest plugin library of this checkout with its host program in the same folder."""
    libraries = sorted(
        folder.glob("liblite_plugins_trt*.so"), key=lambda path: path.stat().st_mtime
    )
    return next((path for path in reversed(libraries) if _host(path).is_file()), None)


def declared_fields(library: Path) -> dict[str, dict[str, str]]:
    """Return the attributes and types that the creators of each plugin in ``library`` declare.

    The ONNX parser drops every other attribute of a node without a warning.

    Raises:
        UserError: the library or the host program in its folder is missing, or does not run.
    """
    for path in (library, _host(library)):
        if not path.is_file():
            raise UserError(f"there is no {path}; run `make plugins`")
    return PluginHost(_host(library), library).fields()


def _host(library: Path) -> Path:
    major = library.stem.rpartition("_")[2]
    return library.parent / f"lite_plugin_host_{major}"
