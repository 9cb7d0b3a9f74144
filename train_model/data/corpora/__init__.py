"""The corpora by name. A new corpus is one module with ``prepare(folder)``, and one line here."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from train_model.cli import UserError

DISTILLED = "-distilled"
"""Suffix of a corpus with a teacher's translations as targets."""


@dataclass(frozen=True)
class Corpus:
    """A corpus that training can prepare.

    Attributes:
        languages: source and target.
        prepare: makes the corpus in a folder and returns the folder that fairseq reads.
    """

    languages: tuple[str, str]
    prepare: Callable[[Path], Path]


def _module(name: str, function: str = "prepare") -> Callable[[Path], Path]:
    """Return a module's ``prepare``; the module is imported at the first call."""

    def prepare(folder: Path) -> Path:
        return getattr(importlib.import_module(f"{__name__}.{name}"), function)(folder)

    return prepare


CORPORA = {
    "demo": Corpus(("en", "de"), _module("demo")),
    "en-de": Corpus(("en", "de"), _module("en_de")),
    "en-de-core": Corpus(("en", "de"), _module("en_de", "prepare_core")),
    "en-de-sampled": Corpus(("en", "de"), _module("en_de", "prepare_sampled")),
    "en-de-english": Corpus(("en", "de"), _module("en_de", "prepare_english")),
    "wmt16": Corpus(("en", "de"), _module("wmt16")),
    "wmt16-raw": Corpus(("en", "de"), _module("wmt16_raw")),
    "iwslt14": Corpus(("de", "en"), _module("iwslt14")),
    "cnndm": Corpus(("source", "target"), _module("cnndm")),
}


def prepare(name: str, build_dir: str | os.PathLike = "build") -> Path:
    """Prepare a corpus under ``build_dir``/data; returns the folder that fairseq reads.

    Raises:
        UserError: the name is unknown, the corpus' text is missing, or it must be distilled first.
    """
    folder = Path(build_dir) / "data" / name
    original = name.removesuffix(DISTILLED)
    if original not in CORPORA:
        raise UserError(f"no corpus {name!r}; there are: {', '.join(CORPORA)}")
    if name == original:
        return CORPORA[name].prepare(folder)
    if not list(folder.glob("bin/train.*-*.*.idx"))[1:]:
        raise UserError(
            f"no {folder}, or half of it; make it: python -m train_model.distill --help"
        )
    return folder / "bin"
