"""Remembers which ONNX files have been checked, so that a translation starts without the package onnx.

A file is recognised by its number on the disk and the time of its last change. No archive can set these.
"""

import contextlib
import json
from pathlib import Path

from train_model.cli import UserError, atomic_path
from train_model.documents import read_json

RECORD = ".checked.json"


def is_checked(path: Path) -> bool:
    """Whether the file at ``path`` has been recorded and is the same since."""
    try:
        return _read(path.parent)[path.name] == _identity(path)
    except (KeyError, OSError):
        return False


def remember(path: Path) -> None:
    """Record the file at ``path``, if its folder can be written."""
    with contextlib.suppress(OSError, UserError):
        entries = _read(path.parent) | {path.name: _identity(path)}
        with atomic_path(path.with_name(RECORD)) as temporary:
            temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def _identity(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_ctime_ns]


def _read(folder: Path) -> dict[str, list[int]]:
    try:
        content = read_json(folder / RECORD, "")
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}
