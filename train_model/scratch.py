"""Hidden folders next to a file, in which it is written before it gets its name."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PENDING = ".pending-"
"""The start of the names of records of renames, which a killed process leaves unfinished (file_sets.py)."""
_MARK = ".partial-"
_LONGEST_NAME = 200  # of 255 bytes, so that the mark and the random part fit


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: other processes that ask for it wait. The lock ends with the process.

    Raises:
        OSError: the folder cannot be opened, or its file system has no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_special(path: Path) -> bool:
    """Whether ``path`` is a device, a pipe or a socket; a rename would put a file in its place."""
    return path.exists() and not path.is_file() and not path.is_dir()


@contextlib.contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Yield a new hidden folder next to ``target``, which is removed afterwards. Makes the folder above it.

    Folders of the same kind that killed processes left are removed first. A running process holds the lock of
    its own, so that one stays.

    Raises:
        OSError: the folder cannot be made, or ``target`` is a device, a pipe or a socket.
    """
    if is_special(target):
        raise OSError(errno.EEXIST, "it is a device, a pipe or a socket, not a file", str(target))
    parent = target.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    prefix = "." + os.fsdecode(os.fsencode(target.name)[:_LONGEST_NAME]) + _MARK
    with contextlib.ExitStack() as held:
        with contextlib.ExitStack() as briefly:
            lockable = True
            try:
                briefly.enter_context(locked(parent))  # no folder is seen before it is locked
            except OSError:
                lockable = False
            if lockable and not any(
                parent.glob(f"{PENDING}*")
            ):  # a record's drafts are still needed
                _remove_abandoned(parent, prefix)
            folder = held.enter_context(_temporary(prefix, parent))
            if lockable:
                held.enter_context(locked(folder))
        yield folder


@contextlib.contextmanager
def _temporary(prefix: str, parent: Path) -> Iterator[Path]:
    """Yield a new folder, which is removed afterwards, also if Ctrl-C comes meanwhile."""
    folder = tempfile.TemporaryDirectory(prefix=prefix, dir=parent)
    try:
        yield Path(folder.name)
    finally:
        try:
            folder.cleanup()
        except KeyboardInterrupt:
            shutil.rmtree(folder.name, ignore_errors=True)
            raise


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove the folders whose names start with ``prefix`` and whose locks nobody holds."""
    with os.scandir(parent) as entries:
        found = [
            entry.path
            for entry in entries
            if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False)
        ]
    for path in found:
        with contextlib.suppress(OSError):  # held, or removed meanwhile
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
