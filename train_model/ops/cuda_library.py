"""Finds and loads the CUDA build of the ``lite::`` operators, a shared library made by CMake."""

import functools
import os
import warnings
from pathlib import Path

import torch

_DEFAULT = Path(__file__).parents[2] / "build" / "torch_ops" / "liblite_torch_ops.so"


def cuda_library_path() -> Path:
    """Return the library's path: ``$LITE_TORCH_OPS``, or in ``build/torch_ops`` of this checkout."""
    return Path(os.environ.get("LITE_TORCH_OPS") or _DEFAULT)


@functools.cache
def load_cuda_library() -> bool:
    """Load the CUDA operators once; return False without a GPU or library.

    If the library exists but does not load (e.g. it was built for another PyTorch), warns and keeps the
    PyTorch form.
    """
    path = cuda_library_path()
    if not torch.cuda.is_available() or not path.exists():
        return False
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        warnings.warn(
            f"{path} does not load ({error}); rebuild it with `make torch-ops`", stacklevel=2
        )
        return False
    return True


@functools.cache
def warn_slow_on_cuda(operator: str) -> None:
    """Warn once per operator that CUDA tensors use its PyTorch form."""
    warnings.warn(
        f"lite::{operator} runs in its slow PyTorch form on CUDA; build the kernels with `make torch-ops`",
        stacklevel=3,
    )
