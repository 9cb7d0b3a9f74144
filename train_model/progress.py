"""Progress of long work on stderr: a bar on a terminal, a line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TextIO, TypeVar

Item = TypeVar("Item")
EVERY = 30.0
"""Seconds between two lines on a stream that is not a terminal."""


class Task(Protocol):
    """A piece of work whose progress is shown."""

    def advance(self, count: int = 1) -> None:
        """Note that ``count`` more units are done."""

    def of(self, total: int) -> None:
        """Note how many units there are, once it is known."""


@contextlib.contextmanager
def task(
    description: str, total: int | None = None, unit: str = "", stream: TextIO | None = None
) -> Iterator[Task]:
    """Show the progress of the block on ``stream``.

    A terminal shows a bar, which disappears at the end. Other streams get one line every 30 seconds.

    Args:
        description: what is being done, e.g. "translating".
        total: units of the whole; None if unknown.
        unit: what is counted, in the plural, e.g. "lines".
        stream: default stderr.
    """
    stream = stream or sys.stderr
    if not stream.isatty():
        yield _Lines(description, total, unit, stream)
        return
    # imported late, since rich takes a tenth of a second
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=Console(file=stream),
        transient=True,
    )
    with bar:
        yield _Bar(bar, bar.add_task(description, total=total))


def track(
    items: Iterable[Item], description: str, total: int | None = None, unit: str = ""
) -> Iterator[Item]:
    """Yield ``items`` and show the progress; ``total`` defaults to their number if they have one."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    with task(description, total, unit) as shown:
        for item in items:
            yield item
            shown.advance()


class _Bar:
    def __init__(self, bar, number) -> None:
        self._bar, self._number = bar, number

    def advance(self, count: int = 1) -> None:
        self._bar.advance(self._number, count)

    def of(self, total: int) -> None:
        self._bar.update(self._number, total=total)


class _Lines:
    def __init__(self, description: str, total: int | None, unit: str, stream: TextIO) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._stream, self._done, self._last = stream, 0, time.monotonic()

    def advance(self, count: int = 1) -> None:
        self._done += count
        if time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            of = "" if self._total is None else f" of {self._total}"
            text = f"{self._description}: {self._done}{of} {self._unit}".rstrip()
            print(text, file=self._stream, flush=True)

    def of(self, total: int) -> None:
        self._total = total
