"""Gives every network a CUDA stream that no other network of the process uses.

PyTorch hands out the 32 streams of its pool in turn, so two networks may get the same one. While one of them
captures a graph there, the other cannot launch its own.
"""

import collections
import threading
import weakref

import torch

POOL = 32
"""The streams of PyTorch's pool for one device."""

_lock = threading.RLock()  # an owner may be deleted at any time, also while the lock is held
_owners: collections.Counter[int] = collections.Counter()  # of each stream


def own_stream(owner: object, device: torch.device | None = None) -> torch.cuda.Stream:
    """Return a stream of the pool that is free; it is so again when ``owner`` is deleted.

    If all are in use, owners share streams.

    Args:
        owner: whose stream it is. A stream cannot tell itself when it is deleted: it leaves its weak
            references behind, and the process crashes at its end (PyTorch's pull request 183403).
        device: a GPU; None for the current one.
    """
    with _lock:
        for _ in range(POOL):
            stream = torch.cuda.Stream(device)
            if not _owners[stream.cuda_stream]:
                break
        _owners[stream.cuda_stream] += 1
    weakref.finalize(owner, _give_back, stream.cuda_stream).atexit = False
    return stream


def _give_back(stream: int) -> None:
    with _lock:
        _owners[stream] -= 1
