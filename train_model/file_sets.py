"""Replaces several files, or a folder, atomically: after a kill all are old or all are new."""

import contextlib
import ctypes
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from train_model.cli import UserError
from train_model.documents import read_json, used
from train_model.scratch import PENDING, locked

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux's renameat2


def replace_together(drafts: Mapping[Path, Path]) -> None:
    """Rename every draft to its final name; all final names are in one folder, the drafts below it.

    A record of the renames is written first. After a kill from then on, the next reader or writer completes
    the renames by :func:`settle`.
    """
    (folder,) = {final.absolute().parent for final in drafts.values()}
    names = {
        str(draft.absolute().relative_to(folder)): final.name for draft, final in drafts.items()
    }
    token = uuid.uuid4().hex
    unnamed = next(iter(drafts)).with_name(token)
    unnamed.write_text(json.dumps(names), encoding="utf-8")
    record = folder / f"{PENDING}{token}"
    with locked(folder):
        unnamed.replace(record)
        _finish(record)


def settle(folder: Path) -> None:
    """Finish the renames that a killed process has recorded.

    Raises:
        UserError: a record of renames is damaged.
    """
    if not folder.is_dir() or not list(folder.glob(f"{PENDING}*")):
        return
    with locked(folder):
        for record in sorted(folder.glob(f"{PENDING}*")):
            _finish(record)


def _finish(record: Path) -> None:
    folder = record.parent
    remedy = "delete it, and make the files there again"
    decoded = read_json(record, remedy)
    with used(record, "a record of renames", remedy):
        parts = [Path(name).parts for names in decoded.items() for name in names]
        drafts = {folder / draft: folder / final for draft, final in decoded.items()}
    inside = all(1 <= len(part) <= 2 and not {"..", "/"} & {*part} for part in parts)
    if not inside or any(final.parent != folder for final in drafts.values()):
        raise UserError(f"{record} names files elsewhere; delete it")
    for draft, final in drafts.items():
        if draft.is_file():  # otherwise it is renamed already
            draft.replace(final)
    for draft in drafts:
        if draft.parent != folder:
            with contextlib.suppress(OSError):  # a running writer's, which removes it itself
                draft.parent.rmdir()
    record.unlink(missing_ok=True)


def replace_folder(draft: Path, final: Path) -> None:
    """Give ``draft`` the name ``final``. A folder of that name goes to where ``draft`` was, or next to it.

    On Linux this is atomic: a kill leaves the old or the new folder.
    """
    if not final.exists():
        draft.rename(final)
        return
    try:
        swap_folders(draft, final)
    except OSError:  # the system cannot do that
        final.rename(draft.with_name(f"{draft.name}.old"))
        draft.rename(final)


def swap_folders(first: Path, second: Path) -> None:
    """Exchange the names of two folders atomically.

    Raises:
        OSError: the system or the file system does not support it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError("this system cannot exchange two names")
    names = os.fsencode(first), os.fsencode(second)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(second))
