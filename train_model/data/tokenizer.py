"""Text to token ids and back: byte-pair encoding (subword-nmt) behind a dictionary."""

import functools
import itertools
import os
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

from subword_nmt.apply_bpe import BPE

from train_model.cli import UserError
from train_model.data.bpe import SEPARATOR, load_bpe
from train_model.data.dictionary import BOS, EOS, SPECIALS, Dictionary

if TYPE_CHECKING:
    from train_model.models.zoo import ModelFiles

WORDS = 2**16
"""Words whose tokens a tokenizer remembers."""


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
