"""How a function becomes a CUDA graph, whichever network of the process it belongs to."""

import contextlib
import dataclasses
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

WARM_UPS = 2

# A capture waits for the whole device first, which would break one that another thread is at.
_one_at_a_time = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Captured:
    """A graph, and the tensors that it leaves its results in."""

    graph: torch.cuda.CUDAGraph
    result: Any

    def replay(self) -> Any:
        """Compute once more, on the current stream; the result is the same tensors every time."""
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
        function: what is captured; it runs a few times before.
        pool: of the graph's memory.
        stream: to run and capture on.
        prepare: runs before each of the runs that are not captured.
    """
    with (
        _one_at_a_time,
        torch.inference_mode(),
        torch.cuda.stream(stream),
        _no_garbage_collection(),
    ):
        for _ in range(WARM_UPS):  # algorithms are chosen and lazily loaded code arrives here
            prepare()
            function()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # other threads' networks go on during a capture, and take memory as they need it
        with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
            result = function()
    return Captured(graph, result)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A graph that is collected during a capture would break it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
