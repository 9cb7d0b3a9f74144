"""Parts shared by all command lines: one-line errors, bounded numbers, atomic files."""

import argparse
import contextlib
import fcntl
import gc
import io
import math
import numbers
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from train_model.interrupt import repeated
from train_model.scratch import is_special, scratch_folder

MAX_MESSAGE = 900
"""The most characters of a message; a name from a damaged file can have millions."""
MAX_THREADS = 256
MAX_WHOLE_NUMBER = 2**31 - 1
MAX_NUMBER = 1e9
NO_READER = 128 + signal.SIGPIPE
"""The exit status after the reader of stdout (``| head``) has gone, as a shell gives it."""
_STDOUT, _STDERR = 1, 2


class UserError(Exception):
    """An error that the user can correct. The message is one line: what, where, and what to do.

    Names and values from a file may be quoted as they are: control characters are escaped, and the middle
    of a very long message is left out.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


def one_line(text: str) -> str:
    """Return ``text`` as one printable line of at most about ``MAX_MESSAGE`` characters."""
    if len(text) > MAX_MESSAGE:
        cut = len(text) - MAX_MESSAGE
        middle = f" ... ({cut} characters left out) ... "
        text = text[: MAX_MESSAGE // 2] + middle + text[-MAX_MESSAGE // 2 :]
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in " ".join(text.split())
    )


program: str | None = None
"""The program's name in every parser's messages; None: each parser's own. The console command sets it."""


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises ``UserError`` for arguments it cannot use, and for empty values."""

    def __init__(self, *, prog: str | None = None, **options: Any):
        super().__init__(prog=program or prog, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        found, others = super().parse_known_args(args, namespace)
        for action in self._actions:
            value = getattr(found, action.dest, None)
            values = value if isinstance(value, list) else [value]
            given = value is not action.default and action.option_strings
            if given and any(isinstance(one, str) and not one.strip() for one in values):
                self.error(f"{action.option_strings[0]} is empty; give a value or leave it out")
        return found, others

    def error(self, message: str) -> NoReturn:
        # argparse writes "argument --beam: is at least 1", where a number's type gives the second half
        message = re.sub(r"^argument ([^:]+): (?=is )", r"\1 ", message)
        raise UserError(f"{message}; see --help")


def first_line(doc: str | None) -> str:
    """Return the first line of a docstring; it is empty under ``python -OO``, which removes docstrings."""
    return (doc or "").partition("\n")[0]


def whole_number(least: int, most: int = MAX_WHOLE_NUMBER) -> Callable[[str], int]:
    """The type of an argument that is a whole number from ``least`` to ``most``, both included."""

    def convert(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]+", text):
            value: float = math.nan
        elif len(text) > 18:  # beyond any bound; Python refuses to convert thousands of digits
            value = -math.inf if text.startswith("-") else math.inf
        else:
            value = int(text)
        return _bounded(value, text, least, most, "a whole number of ")

    return convert


def size(text: str) -> int:
    """Return the whole number of at most nine digits that ``text`` is, or 0 if it is something else."""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0


def number(least: float, most: float = MAX_NUMBER) -> Callable[[str], float]:
    """The type of an argument that is a number from ``least`` to ``most``, both included."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        return _bounded(value, text, least, most, "a number of ")

    return convert


def _bounded(value: float, text: str, least: float, most: float, what: str) -> float:
    """Return ``value`` if it is within its bounds; NaN stands for a text that is not ``what``."""
    if least <= value <= most:
        return value
    bound = f"at most {most:.10g}" if value > most else f"at least {least:.10g}"
    raise argparse.ArgumentTypeError(
        f"is {what if math.isnan(value) else ''}{bound}, not {text[:40]!r}"
    )


def check_number(name: str, value: float, least: float, most: float = MAX_NUMBER) -> None:
    """Raise ``UserError`` if an option of a function is not a number from ``least`` to ``most``.

    It is a whole number if ``least`` is an int.
    """
    kind = numbers.Integral if isinstance(least, int) else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        what = "a whole number" if isinstance(least, int) else "a number"
        raise UserError(f"{name} is {what}, not {repr(value)[:40]}")
    if not least <= value <= most:
        raise UserError(f"{name} is from {least:.10g} to {most:.10g}, not {str(value)[:40]}")


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Raise ``UserError`` if an option of a function is not one of ``known``."""
    if value not in known:
        raise UserError(f"{name} is one of {', '.join(known)}, not {repr(value)[:40]}")


def check_path(name: str, value: object) -> None:
    """Raise ``UserError`` if an option of a function cannot name a file or a folder."""
    if not isinstance(value, str | os.PathLike) or not _is_path(os.fspath(value)):
        raise UserError(f"{name} is a path, not {repr(value)[:40]}")


def _is_path(text: str) -> bool:
    """Whether ``text`` can name a file for every library; an empty name would be the current folder."""
    try:
        return bool(text.strip()) and b"\0" not in text.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8
        return False


def add_count(
    parser: argparse._ActionsContainer,
    name: str,
    default: int | None,
    meaning: str,
    most: int = MAX_WHOLE_NUMBER,
    *,
    least: int = 1,
) -> None:
    """Add an option that takes a whole number from ``least`` to ``most``; ``meaning`` is its help."""
    if default is not None:
        meaning += f"; default: {default}"
    parser.add_argument(
        name, type=whole_number(least, most), default=default, help=meaning, metavar="N"
    )


def path_argument(text: str) -> Path:
    """The type of an argument that names a file or a folder."""
    if not _is_path(text):
        raise argparse.ArgumentTypeError(f"is a path, not {text[:40]!r}")
    return Path(text)


def output_folder(text: str) -> Path:
    """The type of an argument that names a folder to write into; it need not exist."""
    folder = path_argument(text)
    if folder.exists() and not folder.is_dir():
        raise argparse.ArgumentTypeError(f"is a folder, and {text[:200]} is a file")
    if reason := _not_writable(folder.absolute()):
        raise argparse.ArgumentTypeError(f"{text[:200]} cannot be written: {reason}")
    return folder


def check_output(output: Path, *inputs: Path | None) -> None:
    """Refuse an output file that cannot be written, before the work for it.

    Args:
        output: the file to write.
        inputs: the files that are read; None for one that is not given.

    Raises:
        UserError: the output is a folder, a device, a pipe, a socket or one of the inputs, or its folder
            cannot be written.
    """
    if output.is_dir():
        raise UserError(f"{output} is a folder; give the name of a file as output")
    if is_special(output):
        raise UserError(
            f"{output} is a device, a pipe or a socket; give the name of a file as output"
        )
    if any(path and path.exists() and output.exists() and output.samefile(path) for path in inputs):
        raise UserError(f"{output} is an input too and would be overwritten; give another output")
    if reason := _not_writable(output.absolute().parent):
        raise UserError(f"cannot write {output}: {reason}")


def _not_writable(folder: Path) -> str | None:
    """Return why no file can be made in ``folder``, which need not exist, or None."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        return f"{there} is not a folder"
    return None if os.access(there, os.W_OK | os.X_OK) else f"{there} may not be written"


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call ``main`` and exit with its status; a ``UserError`` gives status 2 and one line on stderr.

    Ctrl-C gives 130, and a reader of stdout that has gone ``NO_READER``, both without a line. stdout is UTF-8
    in any locale, like the files that the project reads and writes.
    """
    try:
        _check_streams()
        with repeated():
            status = main() or 0
        sys.stdout.flush()
    except UserError as error:
        status = _fail(error)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        # the work may be unfinished, so this is not a success
        status = NO_READER if _has_no_reader(error) else _fail(f"{error.strerror or error}{where}")
    except (MemoryError, RuntimeError) as error:
        if not _lacks_memory(error):
            raise
        status = _fail("there is not enough memory; free some, or give less at a time")
    except KeyboardInterrupt:
        status = 130
    _flush_or_drop()
    # the interpreter's last collections would search PyTorch's many objects for 0.3 s
    gc.freeze()
    sys.exit(status)


def _lacks_memory(error: Exception) -> bool:
    """Return whether memory was refused: PyTorch raises RuntimeError on a CPU, and a subclass on a GPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def standard_input() -> BinaryIO:
    """The bytes on stdin.

    Raises:
        UserError: stdin is closed.
    """
    if sys.stdin is None:
        raise UserError("stdin is closed; pipe the text in, or give it with < file")
    if not hasattr(sys.stdin, "buffer"):  # a program has replaced sys.stdin by a text stream
        return io.BytesIO(sys.stdin.read().encode())
    return sys.stdin.buffer


def _check_streams() -> None:
    """Make the standard streams safe to use; raises ``UserError`` if stdout is closed."""
    # the next opened file would get a closed stream's number, and a library's print would go into it
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(fd, True)
    os.close(fd)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        raise UserError("stdout is closed; send it to a file or to /dev/null")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _has_no_reader(error: OSError) -> bool:
    """Whether the error is that stdout's reader has gone, and not another pipe's or a server's."""
    if not isinstance(error, BrokenPipeError):
        return False
    poll = select.poll()
    poll.register(_STDOUT, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _flush_or_drop() -> None:
    """Flush stdout; if that fails, keep the interpreter from trying again at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: object) -> int:
    with contextlib.suppress(OSError):  # stderr is full; the status still tells
        print(f"error: {one_line(str(message))}", file=sys.stderr)
    return 2


@contextlib.contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Hold the file ``lock``: other processes that ask for it wait. Makes its folder."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)  # not write-only, which waits at a pipe
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        # closing does not unlock the file if a fork of this process has it
        fcntl.flock(file, fcntl.LOCK_UN)
        os.close(file)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path in a hidden folder; rename it to ``path`` on success, delete it on failure.

    Raises:
        UserError: the folder cannot be written to, or ``path`` is a device, a pipe or a socket.
    """
    path = Path(path)
    try:
        with scratch_folder(path) as folder:
            temporary = folder / path.name
            temporary.touch()
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
