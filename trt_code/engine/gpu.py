"""The GPU, through its driver's ``nvidia-smi`` or cuda-python, which is imported only where it is used."""

import functools
import importlib
import subprocess
from dataclasses import dataclass
from types import ModuleType
from typing import Self

from train_model.cli import UserError


def load_cudart() -> ModuleType:
    """Return cuda-python's runtime module, ``cuda.bindings.runtime``.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise UserError(
            f"cuda-python is not here ({error}); install it with `pip install cuda-python`; "
            "the runners torch and ort work without it"
        ) from error


def check(result: tuple):
    """Return the values of a cuda-python call, which come as ``(status, *values)``.

    Raises:
        UserError: the status is an error; the message holds CUDA's own name for it.
    """
    status, *values = result
    cudart = load_cudart()
    if status != cudart.cudaError_t.cudaSuccess:
        raise UserError(f"CUDA reports {status.name} ({int(status)}); see `nvidia-smi`")
    return values[0] if len(values) == 1 else tuple(values)


@dataclass(frozen=True)
class Gpu:
    """The GPU that a plan was built for."""

    name: str
    compute_capability: str

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability})"


@functools.cache
def installed_gpus() -> tuple[Gpu, ...]:
    """Describe the GPUs that the driver knows, in its order; asks ``nvidia-smi``, so needs no package."""
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        reply = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if reply.returncode:
        return ()
    rows = (line.rpartition(",") for line in reply.stdout.splitlines())
    return tuple(Gpu(name.strip(), capability.strip()) for name, _, capability in rows if name)


def current_gpu() -> Gpu:
    """Describe the current CUDA device.

    Raises:
        UserError: there is no usable GPU, or no cuda-python.
    """
    cudart = load_cudart()
    properties = check(cudart.cudaGetDeviceProperties(check(cudart.cudaGetDevice())))
    name, _, _ = properties.name.partition(b"\0")
    return Gpu(name.decode(), f"{properties.major}.{properties.minor}")


class Event:
    """A CUDA event on ``stream``, for ``trt_code.runners.timing``. Call ``close`` when done."""

    def __init__(self, stream: int) -> None:
        self._stream, self._event = stream, check(load_cudart().cudaEventCreate())

    def record(self) -> None:
        """Record the event after the work that is on the stream now."""
        check(load_cudart().cudaEventRecord(self._event, self._stream))

    def synchronize(self) -> None:
        """Wait until the device has reached the event."""
        check(load_cudart().cudaEventSynchronize(self._event))

    def elapsed_time(self, end: Self) -> float:
        """Return the milliseconds from this event to ``end``."""
        return check(load_cudart().cudaEventElapsedTime(self._event, end._event))

    def close(self) -> None:
        check(load_cudart().cudaEventDestroy(self._event))


class DeviceBuffer:
    """``size`` bytes of device memory; ``pointer`` is an int. Call ``close`` when done."""

    def __init__(self, size: int):
        self.size = size
        # A context with nothing to compute asks for 0 bytes; TensorRT refuses a null address.
        self.pointer = int(check(load_cudart().cudaMalloc(max(size, 1))))

    def close(self) -> None:
        check(load_cudart().cudaFree(self.pointer))
