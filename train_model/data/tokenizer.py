"""Text to token ids and back: byte-pair encoding (subword-nmt) behind a dictionary."""

import functools
import io
import itertools
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from subword_nmt.apply_bpe import BPE

from train_model.cli import UserError
from train_model.data.dictionary import BOS, EOS, SPECIALS, Dictionary

if TYPE_CHECKING:
    from train_model.models.zoo import ModelFiles

SEPARATOR = "@@"
WORDS = 2**16
"""Words whose tokens a tokenizer remembers."""


def load_bpe(path: str | os.PathLike, dictionary: Dictionary | None = None) -> BPE:
    """Read the merges that ``subword-nmt learn-bpe`` wrote.

    A file of the same name that ends in ``.glossary`` has regular expressions, one a line: what they
    match inside a word is a unit of its own (``subword-nmt apply-bpe --glossaries``).

    With a dictionary, a unit that is not in it is split again into smaller ones that are: merges that
    only ever led to longer units leave such units in words that the training text had not.

    Raises:
        UserError: no such file, or something else than merges or expressions in it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"no BPE codes at {path}; give those that the model was trained with"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a UTF-8 text file, so it has no BPE codes") from None
    merges = text.removesuffix("\n").split("\n")
    first = 1 if merges[0].startswith("#version:") else 0
    if first and not re.fullmatch(r"#version: ?[0-9]+(\.[0-9]+)*\s*", merges[0]):
        raise UserError(f"{path} line 1 is {merges[0][:40]!r}; it says '#version: 0.2'")
    for number, line in enumerate(merges[first:] or [""], start=first + 1):
        if len(line.strip("\r ").split(" ")) != 2:  # subword-nmt strips these and exits for fewer
            raise UserError(
                f"{path} line {number} is {line[:40]!r}; BPE codes have two symbols a line"
            )
    vocabulary = None if dictionary is None else set(dictionary.symbols)
    glossary = _load_glossary(glossary_path(path))
    if vocabulary and glossary:  # subword-nmt takes the end of a part for the end of the word
        vocabulary |= {symbol.removesuffix(SEPARATOR) for symbol in vocabulary}
    return BPE(io.StringIO(text), separator=SEPARATOR, vocab=vocabulary, glossaries=glossary)


def glossary_path(bpe_codes: str | os.PathLike) -> Path:
    """Where the glossary of a file of BPE codes lies, if it has one."""
    return Path(bpe_codes).with_suffix(".glossary")


def _load_glossary(path: Path) -> list[str]:
    try:
        expressions = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a UTF-8 text file, so it is no glossary") from None
    for number, expression in enumerate(expressions, start=1):
        try:
            re.compile(expression)
        except re.error as error:
            raise UserError(
                f"{path} line {number} is no regular expression ({error}): {expression[:40]!r}"
            ) from None
    return [expression for expression in expressions if expression]


def normalise(text: str) -> str:
    """Composed characters (NFC); white space and control characters become single spaces."""
    text = unicodedata.normalize("NFC", text)
    return " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in text).split())


def split_units(bpe: BPE, text: str) -> list[str]:
    """The text's subword units; those inside a word end in ``@@``."""
    return bpe.segment(normalise(text)).split()


class Tokenizer:
    """Encodes source text for a model and decodes what the model gives."""

    def __init__(self, bpe_codes: str | os.PathLike, src_dict: Dictionary, tgt_dict: Dictionary):
        """Read the BPE codes; raises ``UserError`` as :func:`load_bpe` does."""
        self.bpe = load_bpe(bpe_codes, src_dict)
        self.src_dict = src_dict
        self.tgt_dict = tgt_dict
        # words come again and again, and each is split by itself: a third of the time for the demo's text
        self._word = functools.lru_cache(WORDS)(self._split_word)

    @classmethod
    def from_files(cls, files: "ModelFiles") -> "Tokenizer":
        """The tokenizer of a model of the zoo."""
        return cls(
            files.bpe_codes, Dictionary.load(files.src_dict), Dictionary.load(files.tgt_dict)
        )

    def encode(self, text: str) -> list[int]:
        """``[bos, ..., eos]``, as the network expects a source; unknown characters become unk.

        Raises:
            UserError: there is nothing in the text but white space.
        """
        words = normalise(text).split()
        if not words:
            raise UserError("the text is empty; give a sentence to translate")
        return [BOS, *itertools.chain.from_iterable(map(self._word, words)), EOS]

    def _split_word(self, word: str) -> tuple[int, ...]:
        return tuple(map(self.src_dict.index, split_units(self.bpe, word)))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of target ids up to the first eos, without special symbols.

        Raises:
            UserError: an id is not in the dictionary, so it is not the model's.
        """
        units = []
        for index in map(int, ids):
            if index == EOS:
                break
            if not 0 <= index < len(self.tgt_dict):
                raise UserError(
                    f"token {index} is not in the dictionary of {len(self.tgt_dict)} symbols; "
                    "give the one that the model was trained with"
                )
            if index >= len(SPECIALS):
                units.append(self.tgt_dict.symbols[index])
        return f"{' '.join(units)} ".replace(f"{SEPARATOR} ", "").rstrip()
