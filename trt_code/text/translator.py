"""Text in, text out over any runner: encode, batch by length, translate, decode, keep the order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from train_model.cli import UserError
from train_model.data.dictionary import EOS, UNK
from train_model.data.tokenizer import Tokenizer, normalise
from trt_code.runners import Runner
from trt_code.text import batching

MAX_TOKENS = 4096
MAX_SENTENCES = 128


@dataclass(frozen=True)
class Translation:
    """A sentence's translation.

    Attributes:
        text: without subword marks and special symbols.
        tokens: how many tokens the network gave, both ends included; 0 for an empty line.
    """

    text: str
    tokens: int


class Codec:
    """Text to what a network takes, and what it gives to text.

    What the model cannot translate is refused by default, with the line that holds it: a sentence
    longer than the model's positions, and symbols that its dictionary has not.

    Args:
        max_source: the most tokens of a sentence; None if unknown.
        too_long: "refuse", or "cut" the tokens behind the last position.
        unknown: "refuse", or "keep" them as ``<unk>``.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_source: int | None,
        too_long: Literal["refuse", "cut"] = "refuse",
        unknown: Literal["refuse", "keep"] = "refuse",
    ):
        self._tokenizer, self._max_source = tokenizer, max_source
        self._too_long, self._unknown = too_long, unknown

    def encode(self, line: str, number: int) -> list[int]:
        """The tokens of a line, none if it has no text; ``number`` is for messages.

        Raises:
            UserError: the line is refused.
        """
        text = normalise(line, "none")
        if not text:
            return []
        limit = self._max_source
        if limit and len(text) > limit * self._longest_symbol:
            # too long whatever its tokens are: said before the slow part, which is finding them
            if self._too_long == "refuse":
                raise UserError(_too_long(number, f"{len(text)} characters", limit))
            text = text[: limit * self._longest_symbol]
        row = self._tokenizer.encode(text)
        if limit and len(row) > limit:
            if self._too_long == "refuse":
                raise UserError(_too_long(number, f"{len(row)} tokens", limit))
            row = [*row[: limit - 1], EOS]
        if UNK in row and self._unknown == "drop":
            row = [index for index in row if index != UNK]
            return row if len(row) > 2 else []
        if UNK in row and self._unknown == "refuse":
            units = zip(self._tokenizer.source_units(text), row[1:], strict=False)
            symbols = sorted({unit for unit, index in units if index == UNK})
            some = ", ".join(map(repr, symbols[:5])) + (" and more" if len(symbols) > 5 else "")
            raise UserError(
                f"line {number}: the model's dictionary has no {some}; mend the line, "
                "or translate it as unknown with --unknown keep"
            )
        return row

    def decode(self, tokens: np.ndarray) -> Translation:
        """The text of one row of a network's output."""
        return Translation(self._tokenizer.decode(tokens), int((tokens != batching.PAD).sum()))

    @cached_property
    def _longest_symbol(self) -> int:
        """Characters that one token can stand for at most, a space behind it counted in."""
        return 1 + max(map(len, self._tokenizer.src_dict.symbols))


class Translator:
    """Translates lines with a runner.

    Args:
        max_tokens, max_sentences: bounds of a batch, padding included.
        too_long, unknown: see ``Codec``.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        max_tokens: int = MAX_TOKENS,
        max_sentences: int = MAX_SENTENCES,
        too_long: Literal["refuse", "cut"] = "refuse",
        unknown: Literal["refuse", "keep"] = "refuse",
    ):
        self._runner = runner
        self._codec = Codec(tokenizer, runner.max_source, too_long, unknown)
        self._max_tokens = max_tokens
        self._max_sentences = min(max_sentences, runner.max_batch or max_sentences)

    def translate(
        self,
        lines: Sequence[str],
        first_line: int = 1,
        done: Callable[[int], None] = lambda count: None,
    ) -> list[Translation]:
        """Translate ``lines``; a line without text gives an empty one.

        Args:
            lines: sentences.
            first_line: the number of the first in the user's input, for messages.
            done: called with the number of lines finished, after every batch.

        Raises:
            UserError: a line is refused. Nothing has been translated then.
        """
        rows = [
            self._codec.encode(line, number) for number, line in enumerate(lines, start=first_line)
        ]
        translations = [Translation("", 0)] * len(rows)
        filled = [i for i, row in enumerate(rows) if row]
        done(len(rows) - len(filled))
        lengths = [len(rows[i]) for i in filled]
        for batch in batching.by_length(lengths, self._max_tokens, self._max_sentences):
            chosen = [filled[i] for i in batch]
            output = self._runner.run(batching.pad([rows[i] for i in chosen]))
            for i, tokens in zip(chosen, output.tokens, strict=True):
                translations[i] = self._codec.decode(tokens)
            done(len(batch))
        return translations


def _too_long(number: int, size: str, limit: int) -> str:
    return (
        f"line {number}: {size} are more than the {limit} positions of the model; "
        "split the line, or cut it with --too-long cut"
    )
