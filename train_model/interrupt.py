"""Ends a program without a traceback at Ctrl-C during imports, and inside code that cannot pass it on."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

AGAIN = 0.02  # seconds after which a Ctrl-C that came in a callback is repeated


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


@contextlib.contextmanager
def repeated() -> Iterator[None]:
    """Repeat a Ctrl-C that comes inside a destructor or a callback of a weak reference.

    Python cannot raise there: it prints a traceback and goes on.
    """
    hook = sys.unraisablehook

    def repeat(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            main = threading.main_thread().ident
            threading.Timer(AGAIN, signal.pthread_kill, (main, signal.SIGINT)).start()
        else:
            hook(unraisable)

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        sys.unraisablehook = hook


@contextlib.contextmanager
def passed_on() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` if Ctrl-C came inside, whatever the code there made of it.

    PyTorch's exporter turns it into an error of its own. In a thread other than the main one, or where Ctrl-C
    is handled in another way, nothing changes.
    """
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    try:
        signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    except Exception:
        if came:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt
