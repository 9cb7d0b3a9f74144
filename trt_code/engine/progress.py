"""A build's progress on stderr."""

import sys
import time
from types import ModuleType
from typing import TextIO


def progress_monitor(trt: ModuleType, stream: TextIO | None = None):
    """Return an ``IProgressMonitor`` that writes the build's phases to ``stream`` (default stderr).

    On a terminal one line is kept up to date; elsewhere each outermost phase is told when it is done.
    """
    stream = stream or sys.stderr

    class Monitor(trt.IProgressMonitor):
        def __init__(self):
            trt.IProgressMonitor.__init__(self)
            self._open: list[tuple[str, int, float]] = []  # name, steps, start; innermost last
            self._on_terminal = stream.isatty()

        def phase_start(self, phase_name, parent_phase, num_steps):
            self._open.append((phase_name, num_steps, time.monotonic()))

        def step_complete(self, phase_name, step):
            if self._on_terminal:
                steps = next((n for name, n, _ in reversed(self._open) if name == phase_name), 0)
                self._rewrite(f"{phase_name}: {step + 1}/{steps}")
            return True  # False would end the build

        def phase_finish(self, phase_name):
            names = [name for name, _, _ in self._open]
            if phase_name not in names:
                return
            _, _, start = self._open.pop(len(names) - 1 - names[::-1].index(phase_name))
            if self._on_terminal:
                self._rewrite("")
            if not self._open:
                print(f"{phase_name}: {time.monotonic() - start:.1f} s", file=stream)

        def _rewrite(self, text):
            print(f"\r\x1b[K{text[:100]}", end="", file=stream, flush=True)

    return Monitor()
