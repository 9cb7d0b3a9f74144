"""Clocks: the host's, and a GPU's through CUDA events. PyTorch is imported when a GPU is timed."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol, Self


def wall_ms(call: Callable[[], object]) -> float:
    """Milliseconds that ``call`` takes on the wall clock."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


class Event(Protocol):
    """A CUDA event on one stream; PyTorch's is one, and so is ``trt_code.engine.gpu.Event``."""

    def record(self) -> object:
        """Record the event after the work that is on the stream now."""

    def synchronize(self) -> object:
        """Wait until the device has reached the event."""

    def elapsed_time(self, end: Self) -> float:
        """Return the milliseconds from this event to ``end``."""


def device_ms(
    call: Callable[[], object], repeats: int, events: tuple[Event, Event] | None = None
) -> list[float]:
    """Milliseconds of each of ``repeats`` calls on the device.

    The host waits for each call before it starts the next.

    Args:
        call: puts work on a CUDA stream.
        repeats: the number of calls.
        events: two events on that stream; None takes PyTorch's, on its current stream.
    """
    if events is None:
        import torch

        events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start, end = events
    times = []
    for _ in range(repeats):
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return times


def graph_ms(calls: Sequence[Callable[[], object]], replays: int) -> float:
    """Median milliseconds of one call on the device, over replays of a CUDA graph of all ``calls``.

    A graph leaves out what the host needs to launch a kernel. The first two calls and one replay run
    before, untimed.
    """
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
        graph.replay()
        return statistics.median(device_ms(graph.replay, replays)) / len(calls)
