"""TensorRT's Python package, imported only when something is about to use it.

One source serves TensorRT 10.12 and later and 11.x: nothing here names what either of them lacks.
"""

import functools
import importlib
import sys
from types import ModuleType

from train_model.cli import UserError

OLDEST = (10, 12)
NEWEST_MAJOR = 11


def load_tensorrt() -> ModuleType:
    """Return the ``tensorrt`` module.

    Raises:
        UserError: it is not installed, does not load, or is not a version that this code is for.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise UserError(
            f"TensorRT for Python is not here ({error}); `pip install tensorrt-cu13 cuda-python` or "
            "use docker/Dockerfile.tensorrt; the runners torch and ort work without it"
        ) from error
    version = version_tuple(trt.__version__)
    if version < OLDEST or version[0] > NEWEST_MAJOR:
        raise UserError(
            f"TensorRT {trt.__version__} is not supported; install 10.12 or later, up to 11.x: "
            "`pip install 'tensorrt-cu13>=10.12,<12'`"
        )
    return trt


def version_tuple(version: str) -> tuple[int, ...]:
    """``"10.16.1.11"`` -> ``(10, 16, 1, 11)``; what follows the numbers is dropped."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


@functools.cache
def process_logger():
    """Return the process's one TensorRT logger (TensorRT keeps the first that it is given).

    Warnings go to stderr as they come. Errors are kept for the one line that the caller raises
    (`last_error`); with ``verbose`` set everything is printed at once.
    """
    trt = load_tensorrt()

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.verbose = False
            self.errors: list[str] = []

        def log(self, severity, msg):
            is_error = severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
            if is_error:
                self.errors.append(msg)
            if self.verbose or severity == trt.ILogger.WARNING:
                print(f"[TensorRT] {severity.name}: {msg}", file=sys.stderr)

        def last_error(self) -> str:
            """Return the newest error as one line and forget all of them."""
            message = self.errors[-1] if self.errors else "TensorRT gave no reason"
            self.errors.clear()
            return " ".join(message.split())

    return Logger()


def deserialize(trt: ModuleType, plan: bytes | memoryview, name: str):
    """Return the ``ICudaEngine`` of a serialised plan that this project built.

    Raises:
        UserError: TensorRT cannot load it; ``name`` says which.
    """
    runtime = trt.Runtime(process_logger())
    runtime.engine_host_code_allowed = True  # a version-compatible plan carries its own runtime
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise UserError(f"TensorRT cannot load {name}: {process_logger().last_error()}")
    return engine
