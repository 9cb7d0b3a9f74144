"""Methods that split text into subword units and join units to text."""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

from train_model.cli import UserError
from train_model.data.bpe import load_bpe
from train_model.data.dictionary import Dictionary


class Subwords(Protocol):
    """Splits text and joins units.

    Attributes:
        by_word: whether a word's units do not depend on its neighbours.
    """

    by_word: bool

    def split(self, text: str) -> list[str]:
        """The units of a normalised text."""

    def join(self, units: Sequence[str]) -> str:
        """The text of units."""


class Words:
    """Text that consists of units already, separated by spaces."""

    by_word = True

    def split(self, text: str) -> list[str]:
        return text.split()

    def join(self, units: Sequence[str]) -> str:
        return " ".join(units)


class Bpe:
    """The byte-pair encoding of subword-nmt.

    Args:
        codes: the file of merges; see :func:`train_model.data.bpe.load_bpe`.
        dictionary: units outside it are split further; None splits as subword-nmt does.
        separator: ends a unit inside a word.
    """

    by_word = True

    def __init__(self, codes: str | os.PathLike, dictionary: Dictionary | None, separator: str):
        self._bpe, self._mark = load_bpe(codes, dictionary, separator), f"{separator} "

    def split(self, text: str) -> list[str]:
        return self._bpe.segment(text).split()

    def join(self, units: Sequence[str]) -> str:
        return f"{' '.join(units)} ".replace(self._mark, "").rstrip()


class SentencePiece:
    """A SentencePiece model, of any of its types.

    Raises:
        UserError: sentencepiece is not installed, or the file is missing or not a model.
    """

    by_word = False

    def __init__(self, model: str | os.PathLike):
        sentencepiece = require("sentencepiece")
        if not Path(model).is_file():
            raise UserError(
                f"no SentencePiece model at {model}; give the one that the model was trained with"
            )
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(Path(model).read_bytes())
        except RuntimeError:
            raise UserError(f"{model} is not a SentencePiece model") from None

    def split(self, text: str) -> list[str]:
        return self._processor.EncodeAsPieces(text)

    def pieces(self) -> list[str]:
        """All units of the model."""
        return [self._processor.IdToPiece(i) for i in range(self._processor.GetPieceSize())]

    def join(self, units: Sequence[str]) -> str:
        return " ".join(self._processor.DecodePieces(list(units)).split())


def require(package: str) -> ModuleType:
    """Import and return a package that only some models need.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"this text needs the package {package}; run `pip install {package}`"
        ) from None
