"""Options and results of a beam search, without PyTorch."""

import math
from dataclasses import dataclass

import numpy as np

from train_model.cli import UserError
from train_model.data.dictionary import BOS, EOS, PAD

MAX_BEAM = 1024
"""Largest number of hypotheses, and of translations, per sentence; a decoder keeps its state for each."""


def check_beam(beam: int | None, n_best: int | None) -> None:
    """Raise ``UserError`` if a given ``beam`` finds fewer translations per sentence than ``n_best``."""
    if beam is not None and n_best is not None and n_best > beam:
        raise UserError(
            f"{n_best} translations per sentence need a beam of {n_best} or more, not {beam}"
        )


@dataclass(frozen=True)
class SearchOptions:
    """Search options; names and defaults are fairseq's.

    A hypothesis has at most ``max_len_a * source width + max_len_b`` tokens before eos (and no more
    than the decoder has positions), at least ``min_len`` before it, and the score
    ``sum of log-probabilities / length ** len_penalty`` with eos counted. ``unk_penalty`` is taken
    from the log-probability of unk. No sequence of ``no_repeat_ngram`` tokens occurs twice (0: may); the
    PyTorch form of this in fairseq 0.12.2 forbids nothing, so mit-han-lab's meaning is taken.

    Raises:
        ValueError: an option is not a finite number.
    """

    beam: int = 5
    max_len_a: float = 0.0
    max_len_b: int = 200
    min_len: int = 1
    len_penalty: float = 1.0
    unk_penalty: float = 0.0
    no_repeat_ngram: int = 0

    def __post_init__(self) -> None:
        for name in ("max_len_a", "max_len_b", "len_penalty", "unk_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is a number, not {getattr(self, name)}")

    def check_vocabulary(self, words: int) -> None:
        """Raise ``UserError`` if the beam does not fit a vocabulary of ``words``."""
        if not 1 <= 2 * self.beam < words:
            raise UserError(
                f"a beam of {self.beam} does not fit a vocabulary of {words}; it is at most "
                f"{(words - 1) // 2}"
            )

    def max_length(self, source_width: int, positions: int) -> int:
        """Return the most tokens before eos for a batch of this source width.

        Raises:
            ValueError: that is less than ``min_len``.
        """
        longest = min(int(self.max_len_a * source_width + self.max_len_b), positions - 1)
        if longest < self.min_len:
            raise ValueError(f"min_len {self.min_len} is above the longest output, {longest}")
        return longest


@dataclass(frozen=True)
class Found:
    """The finished hypotheses of a batch, best first; N is the beam, T the longest one's length.

    Attributes:
        counts: finished hypotheses per sentence [B] int64; entries after them have no meaning.
        tokens: [B, N, T] int64 with the closing eos, then pad.
        positional_scores: log-probabilities [B, N, T] float32, then 0.
        lengths: tokens with eos [B, N] int64.
        scores: [B, N] float32.
    """

    counts: np.ndarray
    tokens: np.ndarray
    positional_scores: np.ndarray
    lengths: np.ndarray
    scores: np.ndarray

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens and scores [B, T] of the best hypotheses, after a bos with score 0."""
        width = int(self.lengths[:, 0].max())
        tokens = np.pad(self.tokens[:, 0, :width], ((0, 0), (1, 0)), constant_values=BOS)
        return tokens, np.pad(self.positional_scores[:, 0, :width], ((0, 0), (1, 0)))

    def first(self, count: int) -> "Found":
        """Return the hypotheses of the first ``count`` sentences."""
        arrays = (self.counts, self.tokens, self.positional_scores, self.lengths, self.scores)
        return Found(*(array[:count] for array in arrays))


def without_bos(src_tokens: np.ndarray) -> np.ndarray:
    """Remove the leading bos of sources [B, S], which only one-pass networks read."""
    return src_tokens[:, 1:] if (src_tokens[:, 0] == BOS).all() else src_tokens


def collect(
    past: list[np.ndarray],
    counts: np.ndarray,
    ends: np.ndarray,
    totals: np.ndarray,
    len_penalty: float,
) -> Found:
    """Read the finished hypotheses back from a search's records of each step.

    Args:
        past: token, beam before it and running sum [steps, B, beam] of the hypotheses after each step.
        counts: finished hypotheses per sentence [B].
        ends: the end of each hypothesis [B, beam]: its last step times beam, plus its beam.
        totals: the sum of each hypothesis' log-probabilities [B, beam].
        len_penalty: see :class:`SearchOptions`.
    """
    beam = ends.shape[1]
    at, beams = np.divmod(ends, beam)
    lengths = at + 1
    penalty = (lengths.astype(np.float64) ** len_penalty).astype(np.float32)
    finished = np.arange(beam) < counts[:, None]
    scores = np.where(finished, totals / penalty, -np.inf)
    lengths = np.where(finished, lengths, 0)
    best = np.argsort(-scores, axis=1, kind="stable")
    beams, lengths, totals, scores = (
        np.take_along_axis(array, best, 1) for array in (beams, lengths, totals, scores)
    )
    tokens, sums = _read_back(past, beams, lengths, totals)
    steps = np.diff(sums, axis=2, prepend=np.float32(0))
    inside = np.arange(tokens.shape[2]) < lengths[..., None]
    return Found(counts, tokens, np.where(inside, steps, np.float32(0)), lengths, scores)


def _read_back(
    past: list[np.ndarray], beams: np.ndarray, lengths: np.ndarray, totals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Trace hypotheses back from their ends; return tokens and running sums [B, N, T].

    Args:
        past: token, beam before it and running sum [steps, B, beam] of the hypotheses after each step.
        beams: the last beam of each hypothesis [B, N].
        lengths: length of each with eos [B, N]; 0 for none.
        totals: sum of each with eos [B, N].
    """
    past_tokens, past_beams, past_totals = past
    width = max(1, int(lengths.max(initial=0)))
    tokens = np.full((*lengths.shape, width), PAD, np.int64)
    sums = np.zeros((*lengths.shape, width), np.float32)
    rows = np.arange(len(lengths))[:, None]
    for step in reversed(range(width)):
        last, inside = lengths == step + 1, lengths > step + 1
        tokens[..., step] = np.where(
            last, EOS, np.where(inside, past_tokens[step][rows, beams], PAD)
        )
        sums[..., step] = np.where(
            last, totals, np.where(inside, past_totals[step][rows, beams], 0)
        )
        beams = np.where(inside, past_beams[step][rows, beams], beams)
    return tokens, sums
