"""Encodes a line of text to a network's tokens, and decodes the network's results to text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np

from train_model.cli import UserError, check_choice
from train_model.data.dictionary import EOS, UNK
from train_model.data.text import TrainingText
from train_model.data.tokenizer import Tokenizer, normalise
from train_model.models.hypotheses import Found
from trt_code.text import batching

Unknown = Literal["refuse", "keep", "drop"]
TooLong = Literal["refuse", "cut"]
OnError = Literal["stop", "skip"]


@dataclass(frozen=True)
class Hypothesis:
    """One translation of a sentence.

    Attributes:
        text: without subword marks and special symbols.
        score: higher is better. For a search, the sum of the log-probabilities divided by length **
        penalty; for a one-pass network, the mean of its token scores, which only ranks; with candidates, the
        judge's mean log-probability per token.
        tokens: subword units.
        token_scores: one per unit.
    """

    text: str
    score: float
    tokens: tuple[str, ...]
    token_scores: tuple[float, ...]


class Translation(NamedTuple):
    """A line's translation.

    Attributes:
        text: the best one, without subword marks and special symbols; empty for a line without text.
        tokens: how many tokens the network gave, both ends included; 0 for an empty line.
        hypotheses: the best ones, if they were asked for; the first has ``text``.
        error: why the line was refused; its text is then empty.
        warning: why the translation may be wrong: the line is unlike the text that trained the model.
    """

    text: str
    tokens: int
    hypotheses: tuple[Hypothesis, ...] = ()
    error: str = ""
    warning: str = ""


class Note(NamedTuple):
    """The error or warning for a line before its translation; see ``Translation``."""

    error: str = ""
    warning: str = ""


def annotate(
    translations: list[Translation] | dict[int, Translation], notes: Mapping[int, Note]
) -> None:
    """Put the notes into the translations of their lines."""
    for i, note in notes.items():
        translations[i] = translations[i]._replace(**note._asdict())


class Codec:
    """Encodes text for a network and decodes its results.

    By default it refuses lines that the model cannot translate: sentences longer than the model's
    positions, and symbols that its dictionary lacks. The message contains the line.

    Args:
        max_source: the largest number of tokens in a sentence; None if unknown. It may be set later.
        too_long: "refuse", or "cut" the tokens behind the last position.
        unknown: "refuse", "keep" them as ``<unk>``, or "drop" them; None takes the model's own policy.
        on_error: "stop" at a line that is refused, or "skip" it.

    Raises:
        UserError: an option is not one of its choices.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_source: int | None = None,
        too_long: TooLong = "refuse",
        unknown: Unknown | None = None,
        on_error: OnError = "stop",
    ):
        check_choice("too_long", too_long, get_args(TooLong))
        check_choice("on_error", on_error, get_args(OnError))
        if unknown is not None:
            check_choice("unknown", unknown, get_args(Unknown))
        self._tokenizer, self.max_source = tokenizer, max_source
        self._too_long, self._unknown = too_long, unknown or tokenizer.options.unknown
        self._on_error = on_error
        self._training_text = TrainingText(tokenizer.options)

    def encode_lines(
        self, lines: Sequence[str], first: int
    ) -> tuple[list[list[int]], dict[int, Note]]:
        """Return the tokens of every line, none if it is empty or skipped, and notes on some lines.

        Args:
            lines: sentences.
            first: the number of the first line, for messages; the notes' keys begin with 0.

        Raises:
            UserError: a line is refused, and lines are not skipped.
        """
        rows, notes = [], {}
        for index, line in enumerate(lines):
            row, number = [], first + index
            try:
                row = self.encode(line, number)
                if row and (warning := self._training_text.warning(line, len(row))):
                    notes[index] = Note(warning=f"line {number}: {warning}")
            except UserError as reason:
                if self._on_error == "stop":
                    raise
                notes[index] = Note(error=str(reason))
            rows.append(row)
        return rows, notes

    def encode(self, line: str, number: int) -> list[int]:
        """Return the tokens of a line, none if it has no text; ``number`` is for messages.

        Raises:
            UserError: the line is refused.
        """
        try:
            line.encode()
        except UnicodeEncodeError as error:  # a byte of another encoding, or half of a JSON pair
            raise UserError(
                f"line {number} is not UTF-8 text: its character {error.start + 1} is a lone surrogate; "
                "convert it to UTF-8"
            ) from None
        text = normalise(line, "none")
        if not text:
            return []
        limit = self.max_source
        if limit and len(text) > limit * self._longest_symbol:
            # too long for any tokens: refuse before the slow search for them
            if self._too_long == "refuse":
                raise UserError(_too_long(number, f"{len(text)} characters", limit))
            text = text[: limit * self._longest_symbol]
        row = self._tokenizer.encode(text)
        if UNK in row and self._unknown == "drop":
            row = [index for index in row if index != UNK]
            if len(row) == 2:  # nothing is left between bos and eos
                return []
        if limit and len(row) > limit:
            if self._too_long == "refuse":
                raise UserError(_too_long(number, f"{len(row)} tokens", limit))
            row = [*row[: limit - 1], EOS]
        if UNK in row and self._unknown == "refuse":
            units = zip(self._tokenizer.source_units(text), row[1:], strict=False)
            symbols = sorted({unit for unit, index in units if index == UNK})
            some = ", ".join(map(repr, symbols[:5])) + (" and more" if len(symbols) > 5 else "")
            domain = self._tokenizer.options.domain
            raise UserError(
                f"line {number}: {f'this model knows {domain}; ' if domain else ''}"
                f"the model's dictionary has no {some}; mend the line, "
                "or translate it as unknown with --unknown keep"
            )
        return row

    def decode(self, result: np.ndarray | Found) -> list[Translation]:
        """Return the translations of a batch, from a network's tokens [B, T] or a search's hypotheses."""
        if isinstance(result, Found):
            return [self._ranked(result, sentence) for sentence in range(len(result.counts))]
        rows = batching.Rows.without_padding(result)
        return list(map(Translation, self.texts(rows), rows.lengths.tolist()))

    def texts(self, rows: batching.Rows) -> list[str]:
        """Return the texts of a network's tokens."""
        tokens, ends = rows.tokens.tolist(), np.cumsum(rows.lengths).tolist()
        return [
            self._tokenizer.decode(tokens[start:end])
            for start, end in zip([0, *ends], ends, strict=False)
        ]

    def _ranked(self, found: Found, sentence: int) -> Translation:
        hypotheses = []
        for rank in range(found.counts[sentence]):
            ids = found.tokens[sentence, rank, : found.lengths[sentence, rank]]
            hypotheses.append(
                Hypothesis(
                    self._tokenizer.decode(ids),
                    float(found.scores[sentence, rank]),
                    *self._units(ids, found.positional_scores[sentence, rank]),
                )
            )
        tokens = int(found.lengths[sentence, 0]) + 1  # bos
        return Translation(hypotheses[0].text, tokens, tuple(hypotheses))

    def _units(
        self, ids: np.ndarray, scores: np.ndarray
    ) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Return a hypothesis's units before its eos, special symbols included, and their scores."""
        count = int((ids == EOS).argmax()) if EOS in ids else len(ids)
        symbols = self._tokenizer.tgt_dict.symbols
        return tuple(symbols[i] for i in ids[:count]), tuple(map(float, scores[:count]))

    @cached_property
    def _longest_symbol(self) -> int:
        """Return the largest number of characters that one token can cover, with a space after it."""
        return 1 + max(map(len, self._tokenizer.src_dict.symbols))


def _too_long(number: int, size: str, limit: int) -> str:
    return (
        f"line {number}: {size} are more than the {limit} positions of the model; "
        "split the line, or cut it with --too-long cut"
    )
