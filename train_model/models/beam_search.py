"""Beam search with any stepwise decoder; a beam of one is greedy search.

The hypotheses, their order and their scores are those of fairseq 0.12.2's ``SequenceGenerator``: each
step keeps the best ``2 * beam`` continuations; those among the first ``beam`` that end the sentence
are finished; a sentence is done when ``beam`` hypotheses are finished. All state stays on the decoder's
device, in tensors of fixed shapes that are written in place, so a CUDA graph can capture a step of the
search. The host only reads whether the search is done and, at the end, the hypotheses.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from train_model.data.dictionary import EOS, PAD, UNK
from train_model.models.hypotheses import Found, SearchOptions, collect


class StepDecoder(Protocol):
    """A decoder for the search. It keeps its state: source, attention keys, convolution windows."""

    vocab_size: int
    max_target_positions: int

    def begin(self, src_tokens: Tensor, beam: int, max_steps: int) -> None:
        """Encode ``src_tokens`` [B, S] and prepare for at most ``max_steps`` steps of [B, beam]."""

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Take one step.

        Args:
            tokens: last token of every hypothesis [B, beam], int64; later steps overwrite them.
            parents: the beam [B, beam], int64, in 0..beam-1, that each hypothesis continues.

        Returns:
            Log-probabilities of the next token [B, beam, V], float32; the search may overwrite them.
        """


@dataclass(frozen=True)
class Hypothesis:
    """One translation: tokens [L] with the closing eos, its score, and log-probabilities [L]."""

    tokens: Tensor
    score: float
    positional_scores: Tensor


def beam_search(
    decoder: StepDecoder, src_tokens: Tensor, options: SearchOptions
) -> list[list[Hypothesis]]:
    """Translate a batch, see :func:`search`.

    Returns:
        For every sentence its finished hypotheses, best first; ``options.beam`` of them unless
        ``no_repeat_ngram`` left fewer.
    """
    return as_hypotheses(search(decoder, src_tokens, options))


def as_hypotheses(found: Found) -> list[list[Hypothesis]]:
    """Convert a search's result to hypotheses, sentence by sentence."""
    return [
        [_hypothesis(found, sentence, rank) for rank in range(count)]
        for sentence, count in enumerate(found.counts.tolist())
    ]


def _hypothesis(found: Found, sentence: int, rank: int) -> Hypothesis:
    own = sentence, rank, slice(int(found.lengths[sentence, rank]))
    return Hypothesis(
        torch.from_numpy(found.tokens[own]),
        found.scores[sentence, rank].item(),
        torch.from_numpy(found.positional_scores[own]),
    )


@torch.inference_mode()
def search(decoder: StepDecoder, src_tokens: Tensor, options: SearchOptions) -> Found:
    """Translate a batch.

    Args:
        decoder: the model, already on the device of ``src_tokens``.
        src_tokens: source tokens [B, S], int64, padded with pad.
        options: the search options.

    Raises:
        UserError: the beam does not fit the vocabulary.
        ValueError: the length limits contradict each other.
    """
    longest = options.max_length(src_tokens.shape[1], decoder.max_target_positions)
    state = Search(len(src_tokens), decoder.vocab_size, longest, options, src_tokens.device)
    decoder.begin(src_tokens, options.beam, longest + 1)
    for _ in range(longest + 1):
        state.advance(decoder.step(state.tokens, state.parents))
        if state.done:
            break
    return state.found()


class Search:
    """The state of a search between the decoder's steps.

    Hypotheses are kept as each step's choice and the beam it came from, and read backwards at the end.

    Attributes:
        tokens: last token of every hypothesis [B, beam] int64: the next step's input.
        parents: the beam that each continues [B, beam] int64: also an input of the next step.
        step: number of steps taken [] int64.
        done: whether every sentence has all its hypotheses [] bool; a further step then changes nothing.
    """

    def __init__(
        self,
        batch: int,
        vocab_size: int,
        longest: int,
        options: SearchOptions,
        device: torch.device,
    ) -> None:
        """Begin a search of ``batch`` sentences for hypotheses of at most ``longest`` tokens before eos.

        Raises:
            UserError: the beam does not fit the vocabulary.
        """
        options.check_vocabulary(vocab_size)
        beam = options.beam
        self._beam, self._vocab_size, self._options = beam, vocab_size, options

        def integers(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        self.tokens, self.parents, self.step = (
            integers(batch, beam),
            integers(batch, beam),
            integers(),
        )
        self.done = torch.zeros((), dtype=torch.bool, device=device)
        self._totals = torch.zeros(batch, beam, device=device)
        steps = longest + 1
        self._past_tokens, self._past_parents = (
            integers(steps, batch, beam),
            integers(steps, batch, beam),
        )
        self._past_totals = torch.zeros(steps, batch, beam, device=device)
        # Finished hypotheses: the step and beam where each ended, and the sum of its log-probabilities. The
        # last slot takes what did not end or came too late; it is never read.
        self._count = integers(batch)
        self._end_at = integers(batch, beam + 1)
        self._end_total = torch.zeros(batch, beam + 1, device=device)
        self._alive = integers(batch, beam + 1)  # its last slot is never read
        # Constants: the candidates' order, and the tokens that a step may not choose.
        self._order = torch.arange(2 * beam, device=device).repeat(batch, 1)
        self._first_beam = torch.full((beam,), -math.inf, device=device)
        self._first_beam[0] = 0
        self._beams = torch.arange(beam, device=device)
        self._forbidden = self._forbid(vocab_size, device)
        kinds = [2 if step == longest else step < options.min_len for step in range(steps)]
        self._kinds = torch.tensor(kinds, dtype=torch.int64, device=device)
        self._history = self.tokens[..., None].clone()
        self.restart()

    def _forbid(self, vocab_size: int, device: torch.device) -> Tensor:
        """Return [3, V] to add to log-probabilities: usually, before ``min_len``, in the last step."""
        rows = torch.zeros(3, vocab_size)
        rows[:, UNK] = -self._options.unk_penalty
        rows[:, PAD] = rows[1, EOS] = -math.inf
        rows[2] = -math.inf
        rows[2, EOS] = 0
        return rows.to(device)

    def restart(self) -> None:
        """Reset the state for other sentences, in the same memory."""
        self.tokens.fill_(EOS)
        self.parents.copy_(self._beams.expand_as(self.parents))
        # All beams are equal before the first step, so only one of them counts.
        self._totals.copy_(self._first_beam.expand_as(self._totals))
        for tensor in (self.step, self.done, self._count):
            tensor.zero_()
        self._history = self.tokens[..., None].clone()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Restore the search's state when the context ends."""
        own = [
            *(self.tokens, self.parents, self.step, self.done, self._totals),
            *(self._past_tokens, self._past_parents, self._past_totals),
            *(self._count, self._end_at, self._end_total),
        ]
        before = [tensor.clone() for tensor in own]
        yield
        for tensor, value in zip(own, before, strict=True):
            tensor.copy_(value)

    def advance(self, scores: Tensor) -> None:
        """Choose the continuation of every hypothesis.

        Args:
            scores: log-probabilities of the next token [B, beam, V] float32; overwritten.
        """
        beam, step = self._beam, self.step.view(1)
        kind = self._kinds.index_select(0, step)
        scores.add_(self._forbidden.index_select(0, kind))
        if self._options.no_repeat_ngram:
            self._forbid_repeats(scores)
        scores.add_(self._totals[..., None])
        candidates, index = scores.flatten(1).topk(2 * beam)
        origin = index // self._vocab_size
        token = index - origin * self._vocab_size
        ends = (token == EOS) & (candidates > -math.inf)
        ended = ends.cumsum(1)
        self._finish(ends[:, :beam], ended[:, :beam], origin[:, :beam], candidates[:, :beam])
        # Unfinished candidates keep their order. At most one per beam ends, so enough of them remain.
        slot = (self._order - ended).clamp_(max=beam).masked_fill_(ends, beam)
        alive = self._alive.scatter_(1, slot, self._order)[:, :beam]
        torch.gather(token, 1, alive, out=self.tokens)
        torch.gather(origin, 1, alive, out=self.parents)
        torch.gather(candidates, 1, alive, out=self._totals)
        self._past_tokens.index_copy_(0, step, self.tokens[None])
        self._past_parents.index_copy_(0, step, self.parents[None])
        self._past_totals.index_copy_(0, step, self._totals[None])
        if self._options.no_repeat_ngram:
            self._remember()
        self.step.add_(1)

    def _finish(self, ends: Tensor, ended: Tensor, origin: Tensor, totals: Tensor) -> None:
        """Keep the hypotheses [B, beam] that end, in order, while there is room.

        ``ended`` has the running counts of ended hypotheses.
        """
        order = ended + self._count[:, None]
        slot = (order - 1).clamp_(max=self._beam).masked_fill_(~ends, self._beam)
        self._end_at.scatter_(1, slot, origin + self.step * self._beam)
        self._end_total.scatter_(1, slot, totals)
        torch.clamp(order[:, -1], max=self._beam, out=self._count)
        torch.all(self._count == self._beam, out=self.done)

    def _forbid_repeats(self, scores: Tensor) -> None:
        size, tokens = self._options.no_repeat_ngram, self._history
        if size > tokens.shape[2]:
            return
        ngrams = tokens.unfold(2, size, 1)
        tail = tokens[:, :, None, tokens.shape[2] + 1 - size :]
        repeats = (ngrams[..., :-1] == tail).all(dim=-1)
        scores.scatter_(2, torch.where(repeats, ngrams[..., -1], PAD), -math.inf)

    def _remember(self) -> None:
        """Append to the tokens of every hypothesis. They grow, so a CUDA graph cannot capture this search."""
        rows = self.parents[..., None].expand(-1, -1, self._history.shape[2])
        self._history = torch.cat([self._history.gather(1, rows), self.tokens[..., None]], 2)

    def found(self) -> Found:
        """Return the finished hypotheses; waits for the device."""
        taken = int(self.step)
        past = [
            tensor[:taken].cpu().numpy()
            for tensor in (self._past_tokens, self._past_parents, self._past_totals)
        ]
        counts, ends, totals = (
            tensor.cpu().numpy() for tensor in (self._count, self._end_at, self._end_total)
        )
        beam, penalty = self._beam, self._options.len_penalty
        return collect(past, counts, ends[:, :beam], totals[:, :beam], penalty)
