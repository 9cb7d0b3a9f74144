"""The binary form of a corpus that fairseq reads: one dictionary and two files per split and language."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from train_model.cli import atomic_path
from train_model.data.dictionary import EOS, Dictionary
from train_model.data.files import SPLITS, copy, step
from train_model.progress import track

Units = Callable[[str, str], Iterator[list[str]]]
"""Returns the subword units of every line of a split in one language."""


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
                [stem.with_name(f"{stem.name}.{end}") for end in ("bin", "idx")],
                lambda stem=stem, split=split, language=language, path=path: _write_split(
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


def _write_split(stem: Path, lines: Iterable[list[str]], dictionary: Dictionary) -> None:
    rows = ([*map(dictionary.index, units), EOS] for units in lines)
    write_binary(stem, track(rows, stem.name, unit="lines"), len(dictionary))


def write_binary(stem: Path, rows: Iterable[Sequence[int]], vocab_size: int) -> None:
    """Write fairseq's memory-mapped form, ``stem``.bin and ``stem``.idx.

    Args:
        stem: path without its ending.
        rows: the ids of every line; each ends with eos.
        vocab_size: decides the integer type of the file.
    """
    from train_model import fairseq_compat

    fairseq_compat.prepare()
    import torch
    from fairseq.data import indexed_dataset

    with (
        atomic_path(stem.with_name(f"{stem.name}.idx")) as index,
        atomic_path(stem.with_name(f"{stem.name}.bin")) as data,
    ):
        builder = indexed_dataset.make_builder(str(data), impl="mmap", vocab_size=vocab_size)
        for row in rows:
            builder.add_item(torch.as_tensor(row, dtype=torch.int32))
        builder.finalize(str(index))
