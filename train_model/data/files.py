"""Text files of a corpus, and the steps that make them: a stopped preparation continues where it was."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from train_model.cli import UserError, atomic_path

SPLITS = ("train", "valid", "test")


def read_lines(path: str | os.PathLike) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file without their line ends.

    Every text file of the project is read here: corpora, dictionaries, BPE codes, glossaries.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is not UTF-8.
    """
    with Path(path).open(encoding="utf-8") as file:
        try:
            for line in file:
                yield line.rstrip("\n")
        except UnicodeDecodeError:
            raise UserError(f"{path} is not a UTF-8 text file") from None


def claim(folder: Path, settings: dict) -> None:
    """Record the settings of a corpus in its folder; a corpus made with other settings is removed."""
    record = folder / "settings.json"
    text = json.dumps(settings, indent=1)
    if record.is_file() and record.read_text(encoding="utf-8") == text:
        return
    if folder.exists():
        shutil.rmtree(folder)
    with atomic_path(record) as temporary:
        temporary.write_text(text, encoding="utf-8")


def step(outputs: list[Path], make: Callable[[], None]) -> None:
    """Call ``make`` unless all its outputs exist."""
    if not all(output.is_file() for output in outputs):
        make()


def copy(source: Path, target: Path) -> None:
    """Copy a file; the target is complete or absent."""
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
