"""The binary form of a corpus that fairseq reads: one dictionary and two files per split and language."""

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from train_model.cli import UserError, atomic_path
from train_model.data.dictionary import EOS, Dictionary
from train_model.data.files import SPLITS, copy, step
from train_model.progress import track

Units = Callable[[str, str], Iterator[list[str]]]
"""Returns the subword units of every line of a split in one language."""


_MAGIC = b"MMIDIDX\0\0"
_HEADER = struct.Struct("<9sQBQ")
"""Of an index: the magic bytes, the version, the type and the number of lines."""
_TYPES = {4: np.int32, 8: np.uint16}
"""The types of ids that fairseq chooses from."""


def binarise(folder: Path, units: Units, languages: tuple[str, str], joined: bool = True) -> Path:
    """Count the training text's units into dictionaries, then write every split in binary.

    Args:
        folder: receives dict.<language>.txt and bin/.
        units: the subword units of every line of a split in a language.
        languages: source and target.
        joined: one dictionary for both languages, or one for each.

    Returns:
        The folder that fairseq reads.
    """
    dictionaries = {language: folder / f"dict.{language}.txt" for language in languages}
    for together in [languages] if joined else [(language,) for language in languages]:
        paths = [dictionaries[language] for language in together]
        step(paths, lambda together=together, paths=paths: _count(units, together, paths))
    binary = folder / "bin"
    for path in dictionaries.values():
        step([binary / path.name], lambda path=path: copy(path, binary / path.name))
    for split in SPLITS:
        for language, path in dictionaries.items():
            stem = binary / f"{split}.{'-'.join(languages)}.{language}"
            step(
                binary_files(stem),
                lambda stem=stem, split=split, language=language, path=path: write_split(
                    stem, units(split, language), Dictionary.load(path)
                ),
            )
    return binary


def _count(units: Units, languages: Iterable[str], paths: list[Path]) -> None:
    frequencies: Counter[str] = Counter()
    for language in languages:
        for line in track(units("train", language), f"dictionary {language}", unit="lines"):
            frequencies.update(line)
    dictionary = Dictionary.from_frequencies(frequencies)
    for path in paths:
        dictionary.save(path)


def write_split(stem: Path, lines: Iterable[list[str]], dictionary: Dictionary) -> None:
    """Write the lines of a split in a language, given in subword units; ``stem`` has no ending."""
    rows = ([*map(dictionary.index, units), EOS] for units in lines)
    write_binary(stem, track(rows, stem.name, unit="lines"), len(dictionary))


def binary_files(stem: Path) -> list[Path]:
    """Return the two files of fairseq's memory-mapped form, ``stem``.bin and ``stem``.idx."""
    return [stem.with_name(f"{stem.name}.{ending}") for ending in ("bin", "idx")]


def write_binary(stem: Path, rows: Iterable[Sequence[int]], vocab_size: int) -> None:
    """Write fairseq's memory-mapped form, see :func:`binary_files`.

    Args:
        stem: path without its ending.
        rows: the ids of every line; each ends with eos.
        vocab_size: determines the integer type of the file.
    """
    from train_model import fairseq_compat

    fairseq_compat.prepare()
    import torch
    from fairseq.data import indexed_dataset

    data_path, index_path = binary_files(stem)
    with atomic_path(index_path) as index, atomic_path(data_path) as data:
        builder = indexed_dataset.make_builder(str(data), impl="mmap", vocab_size=vocab_size)
        for row in rows:
            builder.add_item(torch.as_tensor(row, dtype=torch.int32))
        builder.finalize(str(index))


def check_binary(folder: Path) -> None:
    """Compare the files of every split with their index, their dictionary and their other language.

    fairseq does not do that.

    Raises:
        UserError: see :func:`check_splits`, or the other language is missing.
    """
    for split in check_splits(folder):
        for language in split.rpartition(".")[2].split("-"):
            if not (folder / f"{split}.{language}.idx").is_file():
                raise UserError(
                    f"{folder} has no {split}.{language}; a teacher can translate the other language: "
                    "python -m train_model.distill --help"
                )


def check_splits(folder: Path) -> dict[str, int]:
    """Return the splits of a corpus, which may lack a language, and their numbers of lines.

    Raises:
        UserError: a file is damaged, has an id that is not in the dictionary, or its other language has
            another number of lines.
    """
    lines: dict[str, int] = {}
    for index in sorted(folder.glob("*.idx")):
        split, _, language = index.stem.rpartition(".")
        symbols = len(Dictionary.load(folder / f"dict.{language}.txt"))
        try:
            count = _check_split(index, symbols)
        except (OSError, ValueError, struct.error) as error:
            raise UserError(
                f"{index} or its .bin is damaged ({error}); delete {folder} and run it again"
            ) from error
        if lines.setdefault(split, count) != count:
            raise UserError(
                f"{index} has {count} lines and its other language {lines[split]}; delete {folder} and run "
                "it again"
            )
    return lines


def _check_split(index: Path, symbols: int) -> int:
    """Return the number of lines of a split in one language; raises ``ValueError`` if it is damaged."""
    with index.open("rb") as file:
        magic, version, code, count = _HEADER.unpack(file.read(_HEADER.size))
        if (magic, version) != (_MAGIC, 1) or code not in _TYPES:
            raise ValueError("it is not an index")
        if index.stat().st_size != _HEADER.size + 12 * count:
            raise ValueError(f"it is not as long as the index of {count} lines")
        sizes = np.fromfile(file, np.int32, count).astype(np.int64)
        starts = np.fromfile(file, np.int64, count)
    kind = np.dtype(_TYPES[code])
    ends = sizes.cumsum() * kind.itemsize
    if (sizes < 1).any() or (starts != ends - sizes * kind.itemsize).any():
        raise ValueError("the lines do not follow each other")
    data = index.with_suffix(".bin")
    if count and data.stat().st_size != ends[-1]:
        raise ValueError(f"{data.name} does not have the {ends[-1]} bytes of its lines")
    if count and not 0 <= (ids := np.memmap(data, kind, "r")).min() <= ids.max() < symbols:
        raise ValueError(f"{data.name} has ids that are not in the dictionary")
    return count
