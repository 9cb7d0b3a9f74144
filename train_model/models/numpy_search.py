"""Beam search on NumPy arrays, for steps that compute on the CPU without PyTorch.

Gives the same results as ``train_model.models.beam_search``, which explains the search.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from train_model.data.dictionary import EOS, PAD, UNK
from train_model.models.hypotheses import Found, SearchOptions, collect

ROOM = 16
"""Tokens by which the state grows when it is full, so that few shapes occur."""


class Steps(Protocol):
    """An encoder and a step with explicit state.

    Attributes:
        vocab_size: of the target.
        max_target: the decoder's positions.
    """

    vocab_size: int
    max_target: int

    def encode(self, src_tokens: np.ndarray) -> Sequence[np.ndarray]:
        """Return the encoder's results for the sources [B, S] int64, which every step reads."""

    def step(
        self,
        tokens: np.ndarray,
        parents: np.ndarray,
        position: np.ndarray,
        source: Sequence[np.ndarray],
        state: Sequence[np.ndarray],
    ) -> tuple[np.ndarray, Sequence[np.ndarray]]:
        """Return the log-probabilities [B, beam, V] float32 of the next token, and the new state."""

    def state_shapes(self, rows: int, room: int) -> Sequence[tuple[int, ...]]:
        """Return the state's shapes for a number of hypotheses and of tokens."""


def search(steps: Steps, src_tokens: np.ndarray, options: SearchOptions) -> Found:
    """Translate source tokens [B, S] int64.

    Raises:
        UserError: the beam does not fit the vocabulary.
        ValueError: the length limits contradict each other.
    """
    batch, beam, words = len(src_tokens), options.beam, steps.vocab_size
    longest = options.max_length(src_tokens.shape[1], steps.max_target)
    options.check_vocabulary(words)
    source, state = steps.encode(src_tokens), _State(steps, batch * beam, longest + 1)
    forbidden = _forbidden(words, options.unk_penalty)
    tokens, parents = np.full((batch, beam), EOS), np.tile(np.arange(beam), (batch, 1))
    # All beams are equal before the first step, so only one of them counts.
    totals = np.full((batch, beam), -np.inf, np.float32)
    totals[:, 0] = 0
    past: list[list[np.ndarray]] = [[], [], []]
    counts = np.zeros(batch, np.int64)
    ends, end_totals = np.zeros((batch, beam), np.int64), np.zeros((batch, beam), np.float32)
    rows, order = np.arange(batch)[:, None], np.arange(2 * beam)
    history = tokens[..., None]
    for position in range(longest + 1):
        scores, new_state = steps.step(
            tokens, parents, np.array(position), source, state.at(position)
        )
        state.tensors = new_state
        kind = 2 if position == longest else int(position < options.min_len)
        scores = scores + forbidden[kind]
        if options.no_repeat_ngram:
            _forbid_repeats(scores, history, options.no_repeat_ngram)
        scores += totals[..., None]
        index = _best(scores.reshape(batch, -1), 2 * beam)
        candidates = np.take_along_axis(scores.reshape(batch, -1), index, 1)
        origin, token = np.divmod(index, words)
        is_end = (token == EOS) & (candidates > -np.inf)
        # Candidates among the first ``beam`` that end with eos are finished, in order, up to the limit.
        place = counts[:, None] + np.cumsum(is_end[:, :beam], axis=1) - 1
        sentence, at = np.nonzero(is_end[:, :beam] & (place < beam))
        ends[sentence, place[sentence, at]] = origin[sentence, at] + position * beam
        end_totals[sentence, place[sentence, at]] = candidates[sentence, at]
        counts = np.minimum(counts + is_end[:, :beam].sum(axis=1), beam)
        # The others continue in their order; at most one per beam ends, so enough are left.
        alive = np.argsort(is_end * 2 * beam + order, axis=1)[:, :beam]
        tokens, parents, totals = token[rows, alive], origin[rows, alive], candidates[rows, alive]
        for kept, array in zip(past, (tokens, parents, totals), strict=True):
            kept.append(array)
        if options.no_repeat_ngram:
            history = np.concatenate([history[rows, parents], tokens[..., None]], axis=2)
        if (counts == beam).all():
            break
    return collect([np.stack(kept) for kept in past], counts, ends, end_totals, options.len_penalty)


class _State:
    """The state between steps, which grows when it is full."""

    def __init__(self, steps: Steps, rows: int, most: int) -> None:
        self._shapes: Callable[[int], Sequence[tuple[int, ...]]] = lambda room: steps.state_shapes(
            rows, room
        )
        self._room, self._most = 0, most
        self.tensors: Sequence[np.ndarray] = ()

    def at(self, position: int) -> Sequence[np.ndarray]:
        """Return the state, grown if needed to hold the token of ``position``."""
        if position == self._room:
            self._room = min(self._room + ROOM, self._most)
            grown = [np.zeros(shape, np.float32) for shape in self._shapes(self._room)]
            for new, old in zip(grown, self.tensors, strict=False):
                new[:, :, : old.shape[2]] = old
            self.tensors = grown
        return self.tensors


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the ``count`` highest values of each row, the highest first."""
    index = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    found = np.take_along_axis(scores, index, 1)
    return np.take_along_axis(index, np.argsort(-found, axis=1, kind="stable"), 1)


def _forbidden(words: int, unk_penalty: float) -> np.ndarray:
    """Return masks [3, V] to add to log-probabilities: usual, before ``min_len``, and in the last step."""
    rows = np.zeros((3, words), np.float32)
    rows[:, UNK] = -unk_penalty
    rows[:, PAD] = rows[1, EOS] = -np.inf
    rows[2] = -np.inf
    rows[2, EOS] = 0
    return rows


def _forbid_repeats(scores: np.ndarray, history: np.ndarray, size: int) -> None:
    """Forbid every token that would repeat a sequence of ``size`` tokens; pad means no token."""
    if size > history.shape[2]:
        return
    ngrams = np.lib.stride_tricks.sliding_window_view(history, size, axis=2)
    tail = history[:, :, None, history.shape[2] + 1 - size :]
    repeats = (ngrams[..., :-1] == tail).all(axis=-1)
    tokens = np.where(repeats, ngrams[..., -1], PAD)
    np.put_along_axis(scores, tokens, -np.inf, axis=2)
