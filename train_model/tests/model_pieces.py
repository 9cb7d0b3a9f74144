"""Dictionaries and merges that fit the checkpoints in fixtures/, in the forms that fairseq leaves behind."""

import itertools
import shutil
import string
import tarfile
from pathlib import Path

from train_model.data.dictionary import SPECIALS, Dictionary

FIXTURES = Path(__file__).parent / "fixtures"
NAT, AR = FIXTURES / "checkpoint_nat.pt", FIXTURES / "checkpoint_ar.pt"
SYMBOLS = 200  # of both, with the special ones
PIECES = {"src-dict": "dict.en.txt", "tgt-dict": "dict.de.txt", "codes": "bpecodes"}
"""Names in a hub archive, by the options of the import."""


def write_pieces(folder: Path) -> dict[str, Path]:
    """Write two dictionaries, merges and parallel text; return their paths by the options of the import.

    Words are letters and pairs of letters; the merges join every pair that the dictionary has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    letters = [*string.ascii_lowercase, *(f"{letter}@@" for letter in string.ascii_lowercase)]
    pairs = map("".join, itertools.product(string.ascii_lowercase, repeat=2))
    pairs = [*itertools.islice(pairs, SYMBOLS - len(SPECIALS) - len(letters))]
    paths = {
        "src-dict": folder / "dict.en.txt",
        "tgt-dict": folder / "dict.de.txt",
        "codes": folder / "bpecodes",
        "test-src": folder / "test.en",
        "test-tgt": folder / "test.de",
    }
    Dictionary((symbol, 9) for symbol in [*letters, *pairs]).save(paths["src-dict"])
    Dictionary((symbol, 9) for symbol in [*pairs, *letters]).save(paths["tgt-dict"])
    merges = "".join(f"{a} {b}</w>\n" for a, b in pairs)
    paths["codes"].write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    paths["test-src"].write_text("ab c\nad ae\n", encoding="utf-8")
    paths["test-tgt"].write_text("a bc\nba\n", encoding="utf-8")
    return paths


def hub_archive(folder: Path, checkpoint: Path = AR) -> Path:
    """Write a packed archive as fairseq's hub has them: ``model.pt``, ``dict.*.txt`` and ``bpecodes``."""
    pieces = write_pieces(folder / "pieces")
    archive = folder / "small.en-de.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for option, name in PIECES.items():
            packed.add(pieces[option], f"small.en-de/{name}")
        packed.add(checkpoint, "small.en-de/model.pt")
        packed.add(FIXTURES / "README.md", "small.en-de/README.md")
    return archive


def data_bin(folder: Path) -> Path:
    """Write the used parts of fairseq-preprocess' folder: dictionaries, and binary files by name only."""
    pieces = write_pieces(folder / "pieces")
    made = folder / "data-bin"
    made.mkdir()
    for option in ("src-dict", "tgt-dict"):
        shutil.copy(pieces[option], made)
    for split, language in itertools.product(("train", "valid", "test"), ("en", "de")):
        (made / f"{split}.en-de.{language}.bin").touch()
        (made / f"{split}.en-de.{language}.idx").touch()
    return made
