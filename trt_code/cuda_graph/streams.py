"""Gives every network a CUDA stream that no other network of the process uses.

PyTorch hands out the 32 streams of its pool in turn, so two networks may get the same one. While one of them
captures a graph there, the other cannot launch its own.
"""

import threading
import weakref

import torch

POOL = 32
"""The streams of PyTorch's pool for one device."""

_lock = threading.Lock()
_in_use: weakref.WeakValueDictionary[int, torch.cuda.Stream] = weakref.WeakValueDictionary()


def own_stream(device: torch.device | None = None) -> torch.cuda.Stream:
    """Return a stream of the pool that is free; it is so again when the returned object is deleted.

    If all are in use, networks share streams.

    Args:
        device: a GPU; None for the current one.
    """
    with _lock:
        for _ in range(POOL):
            stream = torch.cuda.Stream(device)
            if stream.cuda_stream not in _in_use:
                break
        return _in_use.setdefault(stream.cuda_stream, stream)
