"""Text files of a corpus, and restartable steps that make them."""

import hashlib
import io
import itertools
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from train_model.cli import UserError, atomic_path

SPLITS = ("train", "valid", "test")
BYTE_ORDER_MARK = "\ufeff"
MAX_TAKEN = 1 << 24
"""The most characters in memory at a time, not counting the last line."""
MAX_LINE = 1 << 24
"""The most bytes of a line: a file without line ends must not fill the memory."""
BLOCK = 1 << 16
"""The bytes that are read at a time."""
MAX_ENTRIES, MAX_ENTRIES_BYTES = 1 << 21, 1 << 26
"""The most lines and bytes of a dictionary and of the other files of a vocabulary."""


def read_lines(path: str | os.PathLike) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file without their line ends.

    Every text file of the project is read here: corpora, dictionaries, BPE codes, glossaries.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: see :func:`decode_lines`.
    """
    with Path(path).open("rb") as file:
        yield from decode_lines(file, str(path))


def read_entries(
    path: str | os.PathLike, lines: int | None = None, size: int | None = None
) -> list[str]:
    """Return all lines of a dictionary, of BPE codes or of a similar list.

    Args:
        path: the file.
        lines, size: the most lines and bytes; default: ``MAX_ENTRIES`` and ``MAX_ENTRIES_BYTES``.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: see :func:`decode_lines`; or the file has more than ``lines`` lines or ``size`` bytes.
    """
    lines = lines or MAX_ENTRIES
    check_size(path, size)
    entries = list(itertools.islice(read_lines(path), lines + 1))
    if len(entries) > lines:
        raise UserError(f"{path} has more than {lines} lines; give the file of a model")
    return entries


def check_size(path: str | os.PathLike, most: int | None = None) -> None:
    """Raise ``UserError`` unless this is a file of at most ``most`` bytes; default: ``MAX_ENTRIES_BYTES``."""
    most = most or MAX_ENTRIES_BYTES
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise UserError(f"{path} is not a file; give the file of a model")
    if status.st_size > most:
        raise UserError(f"{path} has more than {most} bytes; give the file of a model")


def decode_lines(
    stream: BinaryIO, name: str, errors: Literal["strict", "surrogateescape"] = "strict"
) -> Iterator[str]:
    """Yield the lines of UTF-8 text without their line ends (LF or CR LF) and without a byte order mark.

    A line ends at a line feed only. Parallel files would lose their alignment if one of them had a
    carriage return or another of Unicode's line ends inside a sentence.

    Args:
        stream: bytes.
        name: of the file, for messages.
        errors: "surrogateescape" makes lone surrogates of bytes that are not UTF-8; the codec refuses such
            a line by its number.

    Raises:
        UserError: a line is not UTF-8, or is longer than ``MAX_LINE`` bytes.
    """
    number = 0
    for block in _blocks(stream, name):
        wrong = None
        try:
            text = block.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            wrong = block.rfind(b"\n", 0, error.start) + 1  # where its line begins
            text = block[:wrong].decode()
        lines = text.split("\n")
        if not lines[-1]:  # nothing follows the last line feed
            lines.pop()
        if "\r" in text:
            lines = [line.removesuffix("\r") for line in lines]
        if number == 0 and lines:
            lines[0] = lines[0].removeprefix(BYTE_ORDER_MARK)
        yield from lines
        number += len(lines)
        if wrong is not None:
            raise UserError(
                f"{name} line {number + 1}: this is not a UTF-8 text file; convert it, "
                "e.g. with iconv -f latin1 -t utf-8"
            )


def raw_lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield the lines of a stream with their ends; raises ``UserError`` for one above ``MAX_LINE`` bytes."""
    return itertools.chain.from_iterable(map(io.BytesIO, _blocks(stream, name)))


def _blocks(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield a stream in blocks of whole lines; raises ``UserError`` for a line above ``MAX_LINE`` bytes."""
    # read1 returns what a pipe has, and not every stream has it
    read = getattr(stream, "read1", stream.read)
    size = min(BLOCK, MAX_LINE)  # so a line within a block is never too long
    begun: list[bytes] = []  # the line of which the end is still to come
    length, number = 0, 1
    while block := read(size):
        length += block.find(b"\n") + 1 or len(block)
        if length > MAX_LINE:
            raise UserError(f"{name} line {number} is longer than {MAX_LINE} bytes; split it")
        if end := block.rfind(b"\n") + 1:
            yield b"".join([*begun, block[:end]])
            number += block.count(b"\n")
            begun, length = [block[end:]], len(block) - end
        else:
            begun.append(block)
    if length:
        yield b"".join(begun)


def take(lines: Iterator[str], count: int) -> list[str]:
    """Return the next ``count`` lines, or fewer: none at the end, and a limit of ``MAX_TAKEN`` characters."""
    taken, characters = [], 0
    for line in itertools.islice(lines, count):
        taken.append(line)
        characters += len(line)
        if characters > MAX_TAKEN:
            break
    return taken


def read_parallel(
    source: str | os.PathLike, target: str | os.PathLike
) -> Iterator[tuple[str, str]]:
    """Yield the pairs of lines of two parallel files.

    Raises:
        UserError: the numbers of lines differ, or a file cannot be read as text.
    """
    end = object()
    pairs = itertools.zip_longest(read_lines(source), read_lines(target), fillvalue=end)
    for number, (left, right) in enumerate(pairs, start=1):
        if end in (left, right):
            longer, shorter = (source, target) if right is end else (target, source)
            raise UserError(
                f"{longer} has more lines than {shorter}, which ends after {number - 1}; each line needs "
                "its translation in the other file"
            )
        yield left, right


def check_parallel(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Read both files to their ends; raises what :func:`read_parallel` raises."""
    for _ in read_parallel(source, target):
        pass


def require_files(folder: Path, names: Iterable[str], remedy: str) -> None:
    """Raise ``UserError`` with the ``remedy`` if ``folder`` lacks one of the files."""
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"no {folder / name}; {remedy}")


def sha256_of(*paths: str | os.PathLike) -> str:
    """Return the SHA-256 of the files' content, one after another, in hexadecimal digits.

    Raises:
        UserError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with Path(path).open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder by name; a killed writer may have left a hidden folder next to them."""
    return sorted(path for path in folder.iterdir() if path.is_file())


def versions(paths: Iterable[Path]) -> dict[str, list[int]]:
    """Return what changes if one of the files is replaced: its size and the time of its last change."""
    states = {str(path.resolve()): path.stat() for path in paths}
    return {name: [state.st_size, state.st_mtime_ns] for name, state in states.items()}


def claim(folder: Path, settings: dict) -> None:
    """Record the settings of a corpus in its folder; a corpus made with other settings is removed.

    Raises:
        UserError: the folder has files, but no record of a corpus.
    """
    record = folder / "settings.json"
    text = json.dumps(settings, indent=1)
    if record.is_file() and record.read_bytes() == text.encode():
        return
    if folder.exists():
        others = [path for path in folder.iterdir() if path != record]
        if others and not record.is_file():
            raise UserError(
                f"{folder} has files that are not a corpus of this project; move them, or choose another "
                "folder with --build-dir"
            )
        for path in others:  # the record goes last, so that a kill leaves it
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    with atomic_path(record) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_lines(path: str | os.PathLike, lines: Iterable[str]) -> None:
    """Write a UTF-8 text file of ``lines``, which have no line ends; the file is complete or absent.

    Raises:
        UserError: the file cannot be written.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(f"{line}\n" for line in lines)


def step(outputs: list[Path], make: Callable[[], None]) -> None:
    """Call ``make`` unless all its outputs exist."""
    if not all(output.is_file() for output in outputs):
        make()


def copy(source: Path, target: Path) -> None:
    """Copy a file atomically: the target is complete or absent."""
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
