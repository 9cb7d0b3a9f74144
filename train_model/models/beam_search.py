"""Beam search over any decoder that takes one step at a time; a beam of one is greedy search.

The hypotheses, their order and their scores are those of fairseq 0.12.2's ``SequenceGenerator``: each
step keeps the best ``2 * beam`` continuations, those among the first ``beam`` that end the sentence
are finished, and a sentence is done when ``beam`` hypotheses are. Everything stays a tensor on the
decoder's device; the host asks once a step whether a hypothesis was finished.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from train_model.data.dictionary import EOS, PAD, UNK


class StepDecoder(Protocol):
    """What the search drives. It keeps its own state: source, attention keys, convolution windows."""

    vocab_size: int
    max_target_positions: int

    def begin(self, src_tokens: Tensor, beam: int, max_steps: int) -> None:
        """Encode ``src_tokens`` [B, S] and prepare for at most ``max_steps`` steps of [B, beam]."""

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Take one step.

        Args:
            tokens: last token of every hypothesis [B, beam], int64; a view that changes later.
            parents: the beam [B, beam], int64, in 0..beam-1, that each hypothesis continues.

        Returns:
            Log-probabilities of the next token [B, beam, V], float32; the search may overwrite them.
        """


@dataclass(frozen=True)
class SearchOptions:
    """How to search; names and defaults are fairseq's.

    A hypothesis has at most ``max_len_a * source width + max_len_b`` tokens before eos (and no more
    than the decoder has positions), at least ``min_len`` before it, and the score
    ``sum of log-probabilities / length ** len_penalty`` with eos counted. ``unk_penalty`` is taken
    from the log-probability of unk. No sequence of ``no_repeat_ngram`` tokens occurs twice (0: may); the
    PyTorch form of this in fairseq 0.12.2 forbids nothing, so mit-han-lab's meaning is taken.
    """

    beam: int = 5
    max_len_a: float = 0.0
    max_len_b: int = 200
    min_len: int = 1
    len_penalty: float = 1.0
    unk_penalty: float = 0.0
    no_repeat_ngram: int = 0

    def max_length(self, source_width: int, positions: int) -> int:
        """Most tokens before eos for a batch of this width [tokens]."""
        return min(int(self.max_len_a * source_width + self.max_len_b), positions - 1)


@dataclass(frozen=True)
class Hypothesis:
    """One translation: tokens [L] with the closing eos, its score, and log-probabilities [L]."""

    tokens: Tensor
    score: float
    positional_scores: Tensor


@torch.inference_mode()
def beam_search(
    decoder: StepDecoder, src_tokens: Tensor, options: SearchOptions
) -> list[list[Hypothesis]]:
    """Translate a batch.

    Args:
        decoder: the model, already on the device of ``src_tokens``.
        src_tokens: source tokens [B, S], int64, padded with pad.
        options: how to search.

    Returns:
        For every sentence its finished hypotheses, best first; ``options.beam`` of them unless
        ``no_repeat_ngram`` left fewer.

    Raises:
        ValueError: the beam does not fit the vocabulary, or the length limits contradict each other.
    """
    beam, batch, device = options.beam, src_tokens.shape[0], src_tokens.device
    if not 1 <= 2 * beam < decoder.vocab_size:
        raise ValueError(f"a beam of {beam} does not fit a vocabulary of {decoder.vocab_size}")
    max_len = options.max_length(src_tokens.shape[1], decoder.max_target_positions)
    if max_len < options.min_len:
        raise ValueError(f"min_len {options.min_len} is above the longest output, {max_len}")

    decoder.begin(src_tokens, beam, max_len + 1)
    # Column 0 is the eos that opens the decoder's input; `totals[..., t]` is the sum up to token t.
    tokens = torch.full((batch, beam, max_len + 2), PAD, dtype=torch.int64, device=device)
    tokens[..., 0] = EOS
    totals = torch.zeros(batch, beam, max_len + 2, device=device)
    parents = torch.arange(beam, device=device).repeat(batch, 1)
    finished = _Finished(batch, beam, max_len + 1, options.len_penalty, device)

    for step in range(max_len + 1):
        scores = decoder.step(tokens[..., step], parents)
        _constrain(scores, tokens[..., : step + 1], options, last=step == max_len)
        # All beams are alike before the first step, so only one of them is looked at.
        scores = scores[:, :1] if step == 0 else scores + totals[..., step, None]
        candidates, index = scores.flatten(1).topk(2 * beam)
        origin, token = index // decoder.vocab_size, index % decoder.vocab_size
        ends = (token == EOS) & (candidates > -math.inf)
        best_end = ends[:, :beam]
        if best_end.any():
            history = origin[:, :beam, None]
            finished.add(
                best_end,
                _continue(tokens[..., 1 : step + 1], history, token[:, :beam]),
                _continue(totals[..., 1 : step + 1], history, candidates[:, :beam]),
            )
            if finished.complete():
                break
        alive = ends.to(torch.int8).sort(dim=1, stable=True).indices[:, :beam]
        parents = origin.gather(1, alive)
        rows = parents[..., None]
        tokens[..., : step + 2] = _continue(tokens[..., : step + 1], rows, token.gather(1, alive))
        totals[..., : step + 2] = _continue(
            totals[..., : step + 1], rows, candidates.gather(1, alive)
        )
    return finished.ranked()


def _continue(history: Tensor, rows: Tensor, last: Tensor) -> Tensor:
    """Rows ``rows`` [B, n, 1] of ``history`` [B, beam, t], each followed by its ``last`` [B, n]."""
    taken = history.gather(1, rows.expand(-1, -1, history.shape[2]))
    return torch.cat([taken, last[..., None]], dim=2)


def _constrain(scores: Tensor, tokens: Tensor, options: SearchOptions, last: bool) -> None:
    """Forbid in ``scores`` [B, beam, V] what may not follow ``tokens`` [B, beam, step + 1]."""
    step = tokens.shape[2] - 1
    scores[..., PAD] = -math.inf
    scores[..., UNK] -= options.unk_penalty
    if last:
        scores[..., :EOS] = -math.inf
        scores[..., EOS + 1 :] = -math.inf
    elif step < options.min_len:
        scores[..., EOS] = -math.inf
    size = options.no_repeat_ngram
    if 0 < size <= step + 1:
        ngrams = tokens.unfold(2, size, 1)
        tail = tokens[:, :, None, step + 2 - size :]
        repeats = (ngrams[..., :-1] == tail).all(dim=-1)
        scores.scatter_(2, torch.where(repeats, ngrams[..., -1], PAD), -math.inf)


class _Finished:
    """The finished hypotheses of a batch, at most ``beam`` a sentence, in the order they came."""

    def __init__(self, batch: int, beam: int, length: int, len_penalty: float, device):
        self._beam, self._len_penalty = beam, len_penalty
        # One slot more than the beam takes what comes too late or is not an end, and is never read.
        slots = (batch, beam + 1)
        self._count = torch.zeros(batch, dtype=torch.int64, device=device)
        self._score = torch.full(slots, -math.inf, device=device)
        self._length = torch.zeros(slots, dtype=torch.int64, device=device)
        self._tokens = torch.full((*slots, length), PAD, dtype=torch.int64, device=device)
        self._totals = torch.zeros((*slots, length), device=device)

    def add(self, mask: Tensor, tokens: Tensor, totals: Tensor) -> None:
        """Add the hypotheses [B, n, t] where ``mask`` [B, n]; ``totals`` are their running scores."""
        order = self._count[:, None] + mask.cumsum(1) - 1
        slot = torch.where(mask & (order < self._beam), order, self._beam)
        length = tokens.shape[2]
        score = totals[..., -1] / length**self._len_penalty
        self._score.scatter_(1, slot, score)
        self._length.scatter_(1, slot, torch.full_like(slot, length))
        wide = slot[..., None].expand(-1, -1, length)
        self._tokens.scatter_(1, wide, tokens)
        self._totals.scatter_(1, wide, totals)
        self._count = (self._count + mask.sum(1)).clamp(max=self._beam)

    def complete(self) -> bool:
        return bool((self._count == self._beam).all())

    def ranked(self) -> list[list[Hypothesis]]:
        counts = self._count.tolist()
        lengths = self._length.tolist()
        return [
            [
                self._hypothesis(sentence, slot, lengths[sentence][slot])
                for slot in self._score[sentence, :count]
                .sort(descending=True, stable=True)[1]
                .tolist()
            ]
            for sentence, count in enumerate(counts)
        ]

    def _hypothesis(self, sentence: int, slot: int, length: int) -> Hypothesis:
        totals = self._totals[sentence, slot, :length]
        return Hypothesis(
            tokens=self._tokens[sentence, slot, :length].clone(),
            score=self._score[sentence, slot].item(),
            positional_scores=totals.diff(prepend=totals.new_zeros(1)),
        )
