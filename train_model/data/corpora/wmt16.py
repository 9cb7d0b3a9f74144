"""WMT16 English to German as ``make download`` fetches it: already tokenised and split into subwords."""

from collections.abc import Iterator
from pathlib import Path

from train_model.data.binary import binarise
from train_model.data.files import (
    check_parallel,
    claim,
    copy,
    read_lines,
    require_files,
    step,
    versions,
)

LANGUAGES = ("en", "de")
SOURCE = Path("data_model/wmt16")
FILES = {  # file names in the data set's archive, without the language
    "train": "train.tok.clean.bpe.32000",
    "valid": "newstest2013.tok.bpe.32000",
    "test": "newstest2014.tok.bpe.32000",
}


def prepare(folder: Path, source: Path = SOURCE) -> Path:
    """Binarise the downloaded text and return the folder that fairseq reads.

    Raises:
        UserError: a file of the data set is missing, or the two files of a split differ in length.
    """
    names = [f"{name}.{language}" for name in FILES.values() for language in LANGUAGES]
    require_files(source, names, "run `make download` (RECIPE=demo needs no download)")
    dictionary = source / "dict.en.txt"
    read = [*(source / name for name in names), *([dictionary] if dictionary.is_file() else [])]
    claim(folder, {"texts": versions(read)})
    if not (folder / "bin").exists():  # made from texts that are checked already
        for name in FILES.values():
            check_parallel(*(source / f"{name}.{language}" for language in LANGUAGES))
    if dictionary.is_file():  # the public checkpoint's dictionary: its embeddings are in this order
        for language in LANGUAGES:
            target = folder / f"dict.{language}.txt"
            step([target], lambda target=target: copy(dictionary, target))

    def units(split: str, language: str) -> Iterator[list[str]]:
        return (line.split() for line in read_lines(source / f"{FILES[split]}.{language}"))

    return binarise(folder, units, LANGUAGES)
