"""Imports TensorRT's Python packages, each at its first use.

NVIDIA has two families with one API. The builder of TensorRT (``tensorrt``) needs the GPU that will run the
plan. The builder of TensorRT for RTX (``tensorrt_rtx``) does not need a GPU, and its plans run on every RTX
GPU for which they were built. The same code serves TensorRT 10.12 and later, 11.x, and TensorRT for RTX
1.5 and later: it tests for an attribute before it uses one that some of them lack.
"""

import functools
import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from types import ModuleType

from train_model.cli import UserError
from trt_code.engine.gpu import Gpu, installed_gpus
from trt_code.engine.library_alias import preload_alias


@dataclass(frozen=True)
class Family:
    """One of NVIDIA's two TensorRTs.

    Attributes:
        name: the value of the variable ``TENSORRT`` for it.
        module: the Python module.
        title: NVIDIA's name.
        oldest, newest_major: the versions that this code is written for.
        install: the command that gets it.
        reads_plugins: the first version whose ONNX parser takes nodes for plugins.
        plugin_abi: the TensorRT major version of the headers for its plugins; None for its own version.
    """

    name: str
    module: str
    title: str
    oldest: tuple[int, int]
    newest_major: int
    install: str
    reads_plugins: tuple[int, int]
    plugin_abi: int | None = None

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None

    def plugin_major(self, version: str) -> int:
        """The major version in the name of the plugin library for ``version`` of this family."""
        return self.plugin_abi or version_tuple(version)[0]


RTX = Family(
    "rtx",
    "tensorrt_rtx",
    "TensorRT RTX",
    (1, 5),
    1,
    "pip install tensorrt-rtx",
    (1, 7),
    plugin_abi=11,
)
FULL = Family(
    "full", "tensorrt", "TensorRT", (10, 12), 11, "pip install tensorrt-cu13 cuda-python", (10, 12)
)
FAMILIES = {family.name: family for family in (RTX, FULL)}

# The file that the ONNX parser of TensorRT for RTX opens for plugins, and the file in the package.
_PARSER_OPENS, _PACKAGE_HAS = "libtensorrt_rtx.so", "libtensorrt_rtx.so.1"


def serves(gpu: Gpu) -> bool:
    """Whether TensorRT for RTX runs on ``gpu``: Turing, Ampere, Ada, and Blackwell's 12.x, not Hopper."""
    return gpu.compute_capability in ("7.5", "8.0", "8.6", "8.9") or (
        gpu.compute_capability.startswith("12.")
    )


def choose_family() -> Family:
    """Return the family that the environment variable ``TENSORRT`` names: rtx, full or auto (default).

    With auto, a machine with a GPU uses the full TensorRT if it is installed or if TensorRT for RTX does
    not support the GPU. Every other machine uses TensorRT for RTX.

    Raises:
        UserError: the variable names something else.
    """
    asked = os.environ.get("TENSORRT") or "auto"
    if asked in FAMILIES:
        return FAMILIES[asked]
    if asked != "auto":
        raise UserError(f"TENSORRT={asked} is not known; choose rtx, full or auto")
    gpus = installed_gpus()
    if gpus and (FULL.is_installed or not serves(gpus[0])):
        return FULL
    return RTX


def load_tensorrt(family: Family | None = None) -> ModuleType:
    """Return the Python module of ``family``, by default of the one that ``choose_family`` gives.

    Raises:
        UserError: it is not installed, does not load, or is a version that this code does not support.
    """
    family = family or choose_family()
    try:
        trt = importlib.import_module(family.module)
    except ImportError as error:
        raise UserError(
            f"{family.title} for Python is not here ({error}); {_remedy(family)}"
        ) from error
    version = version_tuple(trt.__version__)
    if version < family.oldest or version[0] > family.newest_major:
        raise UserError(
            f"{family.title} {trt.__version__} is not supported; install "
            f"{'.'.join(map(str, family.oldest))} or later, up to {family.newest_major}.x: "
            f"`{family.install}`"
        )
    if family is RTX:
        preload_alias(_PARSER_OPENS, _PACKAGE_HAS)
    return trt


def require_plugins(trt: ModuleType) -> None:
    """Raise ``UserError`` if this TensorRT cannot read nodes for plugins from ONNX files."""
    family = family_of(trt)
    if version_tuple(trt.__version__) < family.reads_plugins:
        first = ".".join(map(str, family.reads_plugins))
        raise UserError(
            f"{title_of(trt)} takes no plugins from ONNX files; install {family.title} {first} or later, "
            f"`{family.install}=={first}.*`, or leave the plugins out with PLUGINS=none"
        )


def family_of(trt: ModuleType) -> Family:
    """Return the family of a module from ``load_tensorrt``."""
    return RTX if trt.__name__ == RTX.module else FULL


def title_of(trt: ModuleType) -> str:
    """Return the title and version, such as ``TensorRT RTX 1.7.1.116``."""
    return f"{family_of(trt).title} {trt.__version__}"


def version_tuple(version: str) -> tuple[int, ...]:
    """Parse ``"10.16.1.11"`` to ``(10, 16, 1, 11)``; a suffix after the numbers is dropped."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


@functools.cache
def process_logger(trt: ModuleType):
    """Return the process's only logger of this TensorRT, which keeps the first logger it gets.

    Warnings go to stderr as they come, each once. Errors are kept for the line that the caller raises
    (`first_error`); with ``verbose`` set everything is printed at once.
    """

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.verbose = False
            self.errors: list[str] = []
            self._warned: set[str] = set()

        def log(self, severity, msg):
            is_error = severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
            if is_error:
                self.errors.append(msg)
            is_news = severity == trt.ILogger.WARNING and self._is_news(msg)
            if self.verbose or is_news:
                print(f"[TensorRT] {severity.name}: {msg}", file=sys.stderr)

        def first_error(self) -> str:
            """Return the first error since the last call as one line, and clear the list.

            Later errors are consequences of the first.
            """
            lines = filter(None, map(one_line, self.errors))
            message = next(lines, "TensorRT gave no reason")
            self.errors.clear()
            return message

        def _is_news(self, msg: str) -> bool:
            known = msg in self._warned or any(part in msg for part in _EXPECTED_WARNINGS)
            self._warned.add(msg)
            return not known

    return Logger()


# Without a GPU, the builder adds an error about a missing driver to every other error.
_NO_DRIVER = "[checkMacros.cpp::catchCudaError"


def one_line(error: str) -> str:
    """Return an error of TensorRT as one line, without a final remark on a missing driver."""
    return " ".join(error.partition(_NO_DRIVER)[0].split())


# Harmless messages that the parser prints for every network of this project.
_EXPECTED_WARNINGS = ("Int64 binding",)


def deserialize(trt: ModuleType, plan: bytes | memoryview, name: str):
    """Return the ``ICudaEngine`` of a serialised plan that this project built.

    Raises:
        UserError: TensorRT cannot load it; the message contains ``name``.
    """
    runtime = trt.Runtime(process_logger(trt))
    runtime.engine_host_code_allowed = True  # a version-compatible plan carries its own runtime
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise UserError(f"TensorRT cannot load {name}: {process_logger(trt).first_error()}")
    return engine


def _remedy(family: Family) -> str:
    if family is RTX:
        return (
            f"`{RTX.install}` (Linux x86-64, Python 3.11 to 3.13; under NVIDIA's licence); "
            "the runners torch and ort work without it"
        )
    gpus = installed_gpus()
    unserved = (
        f"TensorRT RTX does not serve the {gpus[0]}; " if gpus and not serves(gpus[0]) else ""
    )
    return (
        f"{unserved}`{FULL.install}` or use docker/Dockerfile.tensorrt; the runners torch and ort, and "
        "cuda-graph on a GPU, work without it"
    )
