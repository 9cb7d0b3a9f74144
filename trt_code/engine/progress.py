"""A build's progress on stderr."""

import contextlib
import sys
import time
from types import ModuleType
from typing import TextIO

from train_model.progress import Task, task


def progress_monitor(trt: ModuleType, stream: TextIO | None = None):
    """Return an ``IProgressMonitor`` that shows the build's phases on ``stream`` (default stderr).

    Each outermost phase gets a line with its seconds when it ends.
    """
    stream = stream or sys.stderr

    class Monitor(trt.IProgressMonitor):
        def __init__(self):
            trt.IProgressMonitor.__init__(self)
            self._open: list[tuple[str, int]] = []  # name and steps, innermost last
            self._shown: Task | None = None
            self._bar = contextlib.ExitStack()
            self._start = 0.0

        def phase_start(self, phase_name, parent_phase, num_steps):
            if not self._open:
                self._start = time.monotonic()
                self._shown = self._bar.enter_context(task(phase_name, num_steps, stream=stream))
            self._open.append((phase_name, num_steps))

        def step_complete(self, phase_name, step):
            if self._shown is not None:
                if phase_name != self._shown.description:
                    self._shown.begin(phase_name, dict(self._open).get(phase_name))
                self._shown.reach(step + 1)
            return True  # False would end the build

        def phase_finish(self, phase_name):
            names = [name for name, _ in self._open]
            if phase_name not in names:
                return
            del self._open[len(names) - 1 - names[::-1].index(phase_name)]
            if not self._open:
                self._bar.close()
                print(f"{phase_name}: {time.monotonic() - self._start:.1f} s", file=stream)

    return Monitor()
