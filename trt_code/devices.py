"""Detects the devices of this machine."""

import ctypes
import os


def processors() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_device() -> str:
    """ "cuda" if PyTorch sees a GPU, else "cpu"."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:  # no driver: skip the import of PyTorch, which takes a second
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
