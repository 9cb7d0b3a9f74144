"""Methods that split text into subword units and join units to text."""

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

from train_model.cli import UserError
from train_model.data.bpe import load_bpe
from train_model.data.dictionary import Dictionary
from train_model.data.files import check_size


class Subwords(Protocol):
    """Splits text and joins units.

    Attributes:
        by_word: whether a word's units do not depend on its neighbours.
    """

    by_word: bool

    def split(self, text: str) -> list[str]:
        """The units of a normalised text."""

    def joiner(self, symbols: Sequence[str | None]) -> Callable[[Sequence[int]], str]:
        """Return a function of ids that joins their symbols to a text; None stands for no text."""


class Words:
    """Text that consists of units already, separated by spaces."""

    by_word = True

    def split(self, text: str) -> list[str]:
        return text.split()

    def joiner(self, symbols: Sequence[str | None]) -> Callable[[Sequence[int]], str]:
        return lambda ids: " ".join(filter(None, map(symbols.__getitem__, ids)))


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

    def joiner(self, symbols: Sequence[str | None]) -> Callable[[Sequence[int]], str]:
        parts = [f"{symbol} ".replace(self._mark, "") if symbol else "" for symbol in symbols]
        return lambda ids: "".join(map(parts.__getitem__, ids)).rstrip()


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
        check_size(model)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(Path(model).read_bytes())
        except RuntimeError:
            raise UserError(f"{model} is not a SentencePiece model; get it again") from None

    def split(self, text: str) -> list[str]:
        return self._processor.EncodeAsPieces(text)

    def pieces(self) -> list[str]:
        """All units of the model."""
        return [self._processor.IdToPiece(i) for i in range(self._processor.GetPieceSize())]

    def joiner(self, symbols: Sequence[str | None]) -> Callable[[Sequence[int]], str]:
        def join(ids: Sequence[int]) -> str:
            pieces = list(filter(None, map(symbols.__getitem__, ids)))
            return " ".join(self._processor.DecodePieces(pieces).split())

        return join


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
