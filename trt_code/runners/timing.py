"""Clocks: the host's, and a GPU's through CUDA events. PyTorch is imported when a GPU is timed."""

import statistics
import time
from collections.abc import Callable, Sequence


def wall_ms(call: Callable[[], object]) -> float:
    """Milliseconds that ``call`` takes on the wall clock."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def device_ms(call: Callable[[], object], repeats: int) -> list[float]:
    """Milliseconds of each of ``repeats`` calls on the current CUDA stream of PyTorch.

    The host waits for each call before it starts the next.
    """
    import torch

    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
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
