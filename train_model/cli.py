"""What every command line of the project shares: one-line errors and files that are never half written."""

import argparse
import contextlib
import fcntl
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn


class UserError(Exception):
    """Something the user can mend. The message is one line: what, where, and what to do."""


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises ``UserError`` for arguments it cannot use."""

    def error(self, message: str) -> NoReturn:
        # argparse writes "argument --beam: is at least 1", where a number's type gives the second half
        message = re.sub(r"^argument ([^:]+): (?=is )", r"\1 ", message)
        raise UserError(f"{message}; see --help")


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an argument that is a whole number from ``least`` to ``most``, both included."""

    def convert(text: str) -> int:
        if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            value = int(text)
            if least <= value and (most is None or value <= most):
                return value
        raise _out_of_bounds(text, least, most)

    return convert


def number(least: float, most: float | None = None) -> Callable[[str], float]:
    """The type of an argument that is a finite number from ``least`` to ``most``, both included."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and least <= value and (most is None or value <= most):
            return value
        raise _out_of_bounds(text, least, most)

    return convert


def _out_of_bounds(text: str, least: float, most: float | None) -> argparse.ArgumentTypeError:
    bounds = f"at least {least}" if most is None else f"{least} to {most}"
    return argparse.ArgumentTypeError(f"is {bounds}, not {text!r}")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call ``main`` and leave the process with its status; 2 and one line for an error of the user's."""
    try:
        status = main() or 0
        sys.stdout.flush()
    except UserError as error:
        status = _fail(str(error))
    except BrokenPipeError:  # the reader (`| head`) has gone; the interpreter must not flush again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        status = _fail(f"{error.strerror or error}{where}")
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _fail(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


@contextlib.contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Processes that come here with the same file ``lock`` wait for each other; its folder is made."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside ``path``; it becomes ``path`` on success and vanishes on failure.

    Raises:
        UserError: the folder cannot be written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another place") from error
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
