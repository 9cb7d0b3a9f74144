"""Progress of long work on stderr: a bar on a terminal, occasional lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

Item = TypeVar("Item")
LINE_EVERY, BAR_EVERY = 30.0, 0.1
"""Seconds between two lines on a stream that is not a terminal, and between two states of a bar."""


class Task:
    """Work whose progress is shown.

    Args:
        show: called with the task at most every ``every`` seconds.

    Attributes:
        description: what is being done.
        done: units that are done.
        total: units of the whole; None if unknown.
    """

    def __init__(
        self, description: str, total: int | None, show: Callable[["Task"], None], every: float
    ) -> None:
        self.description, self.done, self.total = description, 0, total
        self._show, self._every, self._last = show, every, time.monotonic()

    def advance(self, count: int = 1) -> None:
        """Note that ``count`` more units are done."""
        self.reach(self.done + count)

    def reach(self, done: int) -> None:
        """Note that ``done`` units are done in all."""
        self.done = done
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self._show(self)

    def begin(self, description: str, total: int | None = None) -> None:
        """Start the next part of the work, with nothing done yet."""
        self.description, self.total = description, total
        self.reach(0)


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

        def write(shown: Task) -> None:
            of = "" if shown.total is None else f" of {shown.total}"
            text = f"{shown.description}: {shown.done}{of} {unit}"
            print(text.rstrip(), file=stream, flush=True)

        yield Task(description, total, write, LINE_EVERY)
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
    number = bar.add_task(description, total=total)

    def draw(shown: Task) -> None:
        bar.update(number, description=shown.description, completed=shown.done, total=shown.total)

    with bar:
        yield Task(description, total, draw, BAR_EVERY)


@contextlib.contextmanager
def stage(description: str, stream: TextIO | None = None) -> Iterator[None]:
    """Show that the block runs, if its work cannot be counted: a spinner on a terminal, else a line.

    Args:
        description: e.g. "exporting model.onnx".
        stream: default stderr.
    """
    stream = stream or sys.stderr
    if not stream.isatty():
        print(f"{description} ...", file=stream, flush=True)
        yield
        return
    from rich.console import Console

    with Console(file=stream).status(f"{description} ..."):
        yield


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
