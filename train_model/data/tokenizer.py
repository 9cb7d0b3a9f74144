"""Text to token ids and back: normalisation, Moses, subword units, a dictionary."""

import functools
import itertools
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from train_model.cli import UserError
from train_model.data import moses
from train_model.data.dictionary import BOS, EOS, UNK, Dictionary
from train_model.data.files import BYTE_ORDER_MARK
from train_model.data.subwords import Bpe, SentencePiece, Subwords, Words
from train_model.data.text import TextOptions
from train_model.data.word_cache import WordCache

if TYPE_CHECKING:
    from train_model.model_folder import ModelFolder


def normalise(text: str, form: str = "NFC") -> str:
    """Compose characters to Unicode's ``form``; white space and control characters become single spaces.

    A byte order mark at the start is removed.
    """
    text = text.removeprefix(BYTE_ORDER_MARK)
    if text.isascii():
        if text.isprintable() and "  " not in text:  # most texts
            return text.strip(" ")
    elif form != "none":
        if len(text) > _LONG:
            text = _sort_marks(text, "NFD" if form in ("NFC", "NFD") else "NFKD")
        text = unicodedata.normalize(form, text)
    if not text.isprintable():  # control characters are not; the test is quick
        text = text.translate(_CONTROLS)
    return " ".join(text.split())


_LONG = 256


def _sort_marks(text: str, form: str) -> str:
    """Decompose a text to ``form``, NFD or NFKD.

    The time that ``unicodedata`` needs grows with the square of a run of combining marks, and an attacker
    can send a hundred thousand of them. It takes runs that are sorted already in one pass.
    """
    decomposed = "".join(unicodedata.normalize(form, character) for character in text)
    runs = itertools.groupby(decomposed, lambda c: unicodedata.combining(c) != 0)
    return "".join("".join(sorted(run, key=unicodedata.combining)) for _, run in runs)


# Unicode's category Cc, which never changes.
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")


class Tokenizer:
    """Encodes source text for a model and decodes the model's output.

    Several threads may share a tokenizer.

    Args:
        text: the steps; see :class:`TextOptions`.
        src_dict, tgt_dict: the model's dictionaries; the same object if the dictionary is joined.
        languages: source and target, for Moses' rules.

    Raises:
        UserError: a file is missing or not of its kind, or a package is not installed.
    """

    def __init__(
        self,
        text: TextOptions,
        src_dict: Dictionary,
        tgt_dict: Dictionary,
        languages: tuple[str, str] = ("en", "en"),
    ):
        self.src_dict, self.tgt_dict, self.options = src_dict, tgt_dict, text
        self._source = _subwords(text, text.codes, src_dict)
        self._target = self._source
        if text.target_codes is not None:
            self._target = _subwords(text, text.target_codes, tgt_dict)
        self._prepare = [_before(text, language) for language in languages]
        if text.case == "truecase":
            self._prepare[0].append(moses.truecase(text.truecase_model))
        self._finish = [moses.detruecase()] if text.case == "truecase" else []
        if text.moses:
            self._finish.append(moses.detokenise(languages[1], text.escape))
        # Each word is split independently: the cache cuts the time to a third on the demo's text.
        self._words = WordCache(self._ids)

    @classmethod
    def from_files(cls, files: "ModelFolder") -> "Tokenizer":
        """The tokenizer of a model.

        Raises:
            UserError: the model has no text processing, or an error of the constructor.
        """
        files.require_text()
        source = Dictionary.load(files.src_dict)
        joined = files.src_dict == files.tgt_dict
        target = source if joined else Dictionary.load(files.tgt_dict)
        return cls(files.text, source, target, tuple(name or "en" for name in files.languages))

    def encode(self, text: str, longest: int | None = None) -> list[int]:
        """Return the ids ``[bos, ..., eos]`` of a source; unknown units become unk.

        Args:
            text: one sentence.
            longest: the most tokens that the caller can use. A text with more characters than these can
                hold is refused before splitting, which takes time and memory.

        Raises:
            UserError: the text is only white space, or it is too long.
        """
        text = normalise(text, self.options.unicode)
        if longest is not None and len(text) > (most := self.characters(longest)):
            raise UserError(
                f"a sentence has {len(text)} characters, and {longest} tokens hold at most {most}; "
                "split it"
            )
        text = self._prepared(text, 0)
        if not text:
            raise UserError("the text is empty; give a sentence to translate")
        if self._source.by_word:
            words = map(self._words.__getitem__, text.split())
            return [BOS, *itertools.chain.from_iterable(words), EOS]
        return [BOS, *self._ids(text), EOS]

    def characters(self, tokens: int) -> int:
        """Return the most characters that ``tokens`` tokens can have, with a space after each."""
        return tokens * self._longest_symbol

    @functools.cached_property
    def _longest_symbol(self) -> int:
        return 1 + max(map(len, self.src_dict.symbols))

    def source_units(self, text: str) -> list[str]:
        """Return the units of a source text, one for each token of :meth:`encode` except bos and eos."""
        return self._source.split(self._prepared(normalise(text, self.options.unicode), 0))

    def target_units(self, text: str) -> list[str]:
        """Return the units of a target text."""
        return self._target.split(self._prepared(normalise(text, self.options.unicode), 1))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of target ids up to the first eos, without special symbols and made-up words.

        Raises:
            UserError: an id is not in the dictionary, which is then not the model's.
        """
        ids = list(ids)
        if EOS in ids:
            ids = ids[: ids.index(EOS)]
        words = len(self.tgt_dict)
        if ids and not (min(ids) >= 0 and max(ids) < words):
            index = next(index for index in ids if not 0 <= index < words)
            raise UserError(
                f"token {index} is not in the dictionary of {words} symbols; "
                "give the one that the model was trained with"
            )
        return functools.reduce(lambda text, step: step(text), self._finish, self._join(ids))

    @functools.cached_property
    def _join(self) -> Callable[[Sequence[int]], str]:
        dictionary = self.tgt_dict
        return self._target.joiner(
            [
                None if dictionary.is_filler(index) else symbol
                for index, symbol in enumerate(dictionary.symbols)
            ]
        )

    def _prepared(self, text: str, side: int) -> str:
        """Return a normalised text after the steps before subwords."""
        return functools.reduce(lambda text, step: step(text), self._prepare[side], text)

    def _ids(self, text: str) -> tuple[int, ...]:
        indices = map(self.src_dict.index, self._source.split(text))
        return tuple(UNK if self.src_dict.is_filler(index) else index for index in indices)


def _subwords(text: TextOptions, codes: Path | None, dictionary: Dictionary) -> Subwords:
    if text.subwords == "sentencepiece":
        return SentencePiece(codes)
    return Bpe(codes, dictionary, text.separator) if text.subwords == "bpe" else Words()


def _before(text: TextOptions, language: str) -> list[moses.Step]:
    """Apply the steps before subwords that both languages share."""
    steps = []
    if text.moses:
        steps.append(moses.tokenise(language, text.aggressive_dashes, text.escape))
    if text.case == "lower":
        steps.append(str.lower)
    return steps
