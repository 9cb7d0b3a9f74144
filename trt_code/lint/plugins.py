"""What the project's plugins take, and what their library declares."""

from pathlib import Path

import onnx

from train_model.cli import UserError
from trt_code.plugin_host.host import PluginHost

T = onnx.TensorProto
DATA = (T.FLOAT, T.FLOAT16, T.BFLOAT16)
# Types of the inputs; "T" is the first input's own. Attributes that the plugin cannot do without.
INPUTS = {
    "LiteDynamicConv": (DATA, "T", T.INT32),
    "LiteLayerNorm": (DATA, T.FLOAT, T.FLOAT, "T"),
    "LiteCrfDecode": (DATA, T.INT32, "T", "T", T.INT32),
    "LiteTopK": (DATA,),
}
OPTIONAL_INPUTS = {"LiteDynamicConv": 1, "LiteLayerNorm": 1}
OUTPUTS = {"LiteDynamicConv": 1, "LiteLayerNorm": 1, "LiteCrfDecode": 2, "LiteTopK": 2}
REQUIRED = {"LiteDynamicConv": ("padding_l",), "LiteLayerNorm": ("eps",), "LiteTopK": ("k",)}
REQUIRED_FUSED = ("heads", "kernel_size")
# The parser's own, not the plugin's.
NAMING = ("plugin_version", "plugin_namespace")


def find_library(folder: Path = Path("build/plugins")) -> Path | None:
    """The newest plugin library of this checkout that has its host program beside it."""
    libraries = sorted(
        folder.glob("liblite_plugins_trt*.so"), key=lambda path: path.stat().st_mtime
    )
    return next((path for path in reversed(libraries) if _host(path).is_file()), None)


def declared_fields(library: Path) -> dict[str, dict[str, str]]:
    """The attributes that each plugin of ``library`` declares, and their types, as its creators tell.

    The ONNX parser drops every other attribute of a node without a word.

    Raises:
        UserError: the library or the host program beside it is missing, or does not run.
    """
    for path in (library, _host(library)):
        if not path.is_file():
            raise UserError(f"there is no {path}; run `make plugins`")
    return PluginHost(_host(library), library).fields()


def _host(library: Path) -> Path:
    major = library.stem.rpartition("_")[2]
    return library.with_name(f"lite_plugin_host_{major}")
