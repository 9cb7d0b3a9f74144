"""Runners of autoregressive networks: a beam search around steps that a framework takes.

``SearchRunner`` puts a search behind the interface of every runner; the other modules make the steps, each
with its own framework.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from train_model.cli import UserError
from train_model.models.hypotheses import Found, SearchOptions, without_bos
from trt_code.runners.base import NO_NUMBERS, Output, Runner
from trt_code.runners.spec import Request
from trt_code.runners.turns import Turns

# Greedy is the fastest and, on the demo, also the best. mit-han-lab scores its WMT16 models with 4 and 0.6.
BEAM, LEN_PENALTY = 1, 1.0


class SearchRunner(Runner):
    """Beam search over a network that takes one step at a time.

    Most networks' sides hold the state of one search, so threads that call one runner take turns.
    """

    def __init__(
        self,
        request: Request,
        search: Callable[[np.ndarray, SearchOptions], Found],
        max_source: int,
        peak_memory: Callable[[], int],
        close: Callable[[], None] = lambda: None,
        during: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
        takes_turns: bool = True,
    ) -> None:
        """See ``Runner``.

        Args:
            request: the model, device and options.
            search: translates source tokens [B, S] int64.
            close: frees the resources of the search.
            during: returns the context manager in which every search runs.
            takes_turns: whether one thread searches at a time.

        Raises:
            UserError: beam or length penalty is out of its bounds.
        """
        super().__init__(request.name, request.precision, request.device)
        self.max_source = max_source
        self._search, self._peak_memory, self._close = search, peak_memory, close
        self._during = during
        self.shares_threads = not takes_turns
        self._turns = Turns() if takes_turns else contextlib.nullcontext()
        beam, len_penalty = request.beam, request.len_penalty
        try:
            self._options = SearchOptions(
                beam=BEAM if beam is None else beam,
                len_penalty=LEN_PENALTY if len_penalty is None else len_penalty,
            )
        except ValueError as error:
            raise UserError(error) from error

    def run(self, src_tokens: np.ndarray) -> Output:
        return Output(*self._found(src_tokens, self._options).best())

    def candidates(self, src_tokens: np.ndarray, count: int, beam: int | None = None) -> Found:
        beam = max(beam or self._options.beam, count)
        found = self._found(src_tokens, dataclasses.replace(self._options, beam=beam))
        return Found(
            np.minimum(found.counts, count),
            *(
                array[:, :count]
                for array in (found.tokens, found.positional_scores, found.lengths, found.scores)
            ),
        )

    def _found(self, src_tokens: np.ndarray, options: SearchOptions) -> Found:
        try:
            with self._turns, self._during():
                found = self._search(without_bos(src_tokens), options)
        except ValueError as error:  # the length limits contradict each other
            raise UserError(error) from error
        if not found.counts.all():  # NaN scores: no hypothesis is above another
            raise UserError(NO_NUMBERS)
        return found

    def peak_memory(self) -> int:
        return self._peak_memory()

    def close(self) -> None:
        self._search = None
        self._close()
