"""Captures functions in CUDA graphs while other networks of the process may run."""

import contextlib
import dataclasses
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

WARM_UPS = 2

# A capture first synchronises the device, which would break a capture in another thread.
_one_at_a_time = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Captured:
    """A CUDA graph and its output tensors."""

    graph: torch.cuda.CUDAGraph
    result: Any

    def replay(self) -> Any:
        """Replay the graph on the current stream; returns the same tensors every time."""
        self.graph.replay()
        return self.result


def capture(
    function: Callable[[], Any],
    pool: Any,
    stream: torch.cuda.Stream,
    prepare: Callable[[], None] = lambda: None,
) -> Captured:
    """Capture what ``function`` launches.

    Args:
        function: the function to capture; it first runs a few times.
        pool: the memory pool of the graph.
        stream: the stream to run and capture on.
        prepare: called before each run that is not captured.
    """
    with (
        _one_at_a_time,
        torch.inference_mode(),
        torch.cuda.stream(stream),
        _no_garbage_collection(),
    ):
        for _ in range(WARM_UPS):  # here algorithms are chosen and code is loaded
            prepare()
            function()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # networks in other threads keep running during a capture, and may allocate memory
        with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
            result = function()
    return Captured(graph, result)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Turn off garbage collection: to free another graph during a capture would break the capture."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
