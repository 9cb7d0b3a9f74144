"""Ends a program without a traceback at Ctrl-C during imports, which take seconds."""

import sys


def silence() -> None:
    """Let ``python -m`` of a module of this project end without a traceback at Ctrl-C.

    The packages call it first. Python sets ``sys.argv[0]`` to "-m" while it looks for the module, so that a
    program that imports the packages keeps its own hook.
    """
    if sys.argv[:1] == ["-m"]:
        sys.excepthook = _hook


def _hook(kind, error, traceback) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
