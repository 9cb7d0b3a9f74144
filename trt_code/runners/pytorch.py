"""Precisions and the TF32 setting of the runners that use PyTorch."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trt_code.runners.base import Unavailable

if TYPE_CHECKING:
    import torch

PRECISIONS = {"cpu": ("fp32", "fp16", "bf16"), "cuda": ("fp32", "tf32", "fp16", "bf16")}
"""The precisions to which PyTorch casts a network on each device."""


_forked = False
"""Whether this process is a fork of one that had loaded PyTorch."""


def _after_fork() -> None:
    """Leave PyTorch one thread: the others do not exist in a fork, and OpenMP would wait for them forever."""
    global _forked
    if (torch := sys.modules.get("torch")) and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(1)
        _forked = True


os.register_at_fork(after_in_child=_after_fork)


def set_threads(count: int) -> None:
    """Set the number of PyTorch's CPU threads, if ``count`` is not 0; a forked process keeps one thread."""
    import torch

    if count and not _forked:
        torch.set_num_threads(count)


def check_device(device: str) -> None:
    """Raise ``Unavailable`` if PyTorch does not see the device."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("PyTorch sees no CUDA GPU (make doctor)")


def dtype_of(precision: str) -> "torch.dtype":
    """The type of weights and activations in a precision, for FP8 of those that are not FP8."""
    import torch

    types = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float16}
    return types.get(precision, torch.float32)


class MatmulPrecision:
    """Controls PyTorch's setting for FP32 products on a GPU, which the whole process shares.

    Calls with the same value run at the same time. A call with the other value waits until they have
    ended. The last call to end restores the earlier setting. A nested call must use the same value.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._calls = {"ieee": 0, "tf32": 0}
        self._before = "none"

    @contextlib.contextmanager
    def hold(self, value: str) -> Iterator[None]:
        """Compute products in ``value``, "ieee" (full FP32) or "tf32", while the block runs."""
        import torch

        matmul = torch.backends.cuda.matmul
        other = "ieee" if value == "tf32" else "tf32"
        with self._condition:
            self._condition.wait_for(lambda: not self._calls[other])
            if not self._calls[value]:
                self._before, matmul.fp32_precision = matmul.fp32_precision, value
            self._calls[value] += 1
        try:
            yield
        finally:
            with self._condition:
                self._calls[value] -= 1
                if not self._calls[value]:
                    matmul.fp32_precision = self._before
                    self._condition.notify_all()


_setting = MatmulPrecision()


def matmul_precision(precision: str, device: str) -> contextlib.AbstractContextManager[None]:
    """TF32 for products on a GPU if ``precision`` is "tf32", full FP32 otherwise; nothing on a CPU."""
    if device == "cpu":
        return contextlib.nullcontext()
    return _setting.hold("tf32" if precision == "tf32" else "ieee")
