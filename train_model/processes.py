"""Contexts of multiprocessing for processes that Ctrl-C does not reach.

A terminal sends Ctrl-C to a program and to the processes that it has started. Each of them would print a
traceback. With these contexts the program alone gets it, and ends its processes as it ends a pool.
"""

import contextlib
import multiprocessing.context
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Block SIGINT in this thread; a process that is started meanwhile keeps it blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Forked(multiprocessing.context.ForkProcess):
    def start(self) -> None:
        with _held_back():
            super().start()


class _Spawned(multiprocessing.context.SpawnProcess):
    def start(self) -> None:
        with _held_back():
            super().start()


class _ForkContext(multiprocessing.context.ForkContext):
    Process = _Forked


class _SpawnContext(multiprocessing.context.SpawnContext):
    Process = _Spawned


FORK, SPAWN = _ForkContext(), _SpawnContext()
