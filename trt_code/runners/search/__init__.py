"""Runners of autoregressive networks: the host searches with a beam, a framework takes the steps.

``SearchRunner`` is the search behind the interface of every runner; the modules beside it make the
steps, each with its own framework.
"""

from collections.abc import Callable

import numpy as np
import torch

from train_model.cli import UserError
from train_model.data.dictionary import BOS, PAD
from train_model.models.beam_search import Hypothesis, SearchOptions, beam_search
from train_model.models.incremental import IncrementalDecoder
from trt_code.runners.base import Output, Runner
from trt_code.turns import Turns

# Greedy is the fastest and, on the demo, also the best. mit-han-lab scores its WMT16 models with 4 and 0.6.
BEAM, LEN_PENALTY = 1, 1.0


class SearchRunner(Runner):
    """Beam search over a decoder that takes one step at a time.

    The decoder holds the state of one search, so threads that call one runner take turns.
    """

    def __init__(
        self,
        name: str,
        precision: str,
        device: str,
        decoder: IncrementalDecoder,
        max_source: int,
        peak_memory: Callable[[], int],
        beam: int | None = None,
        len_penalty: float | None = None,
    ) -> None:
        """See ``Runner``; ``beam`` (1 is greedy) and ``len_penalty`` are as ``SearchOptions`` has them."""
        super().__init__(name, precision, device)
        self.max_source = max_source
        self._decoder, self._peak_memory = decoder, peak_memory
        self._turns = Turns()
        self._options = SearchOptions(
            beam=BEAM if beam is None else beam,
            len_penalty=LEN_PENALTY if len_penalty is None else len_penalty,
        )

    def run(self, src_tokens: np.ndarray) -> Output:
        source = torch.from_numpy(without_bos(src_tokens)).to(self.device)
        with self._turns:
            found = beam_search(self._decoder, source, self._options)
        if not all(found):  # no score is above another where they are not numbers
            raise UserError("the network gives scores that are no numbers; make its files again")
        return as_output([hypotheses[0] for hypotheses in found])

    def peak_memory(self) -> int:
        return self._peak_memory()

    def close(self) -> None:
        self._decoder = None


def without_bos(src_tokens: np.ndarray) -> np.ndarray:
    """Sources without the bos that non-autoregressive networks have in front of them."""
    return src_tokens[:, 1:] if (src_tokens[:, 0] == BOS).all() else src_tokens


def as_output(hypotheses: list[Hypothesis]) -> Output:
    """The hypotheses behind a bos of score 0, padded to one length."""
    width = 1 + max(len(hypothesis.tokens) for hypothesis in hypotheses)
    tokens = np.full((len(hypotheses), width), PAD, np.int64)
    scores = np.zeros((len(hypotheses), width), np.float32)
    tokens[:, 0] = BOS
    for row, hypothesis in enumerate(hypotheses):
        length = len(hypothesis.tokens)
        tokens[row, 1 : 1 + length] = hypothesis.tokens.cpu().numpy()
        scores[row, 1 : 1 + length] = hypothesis.positional_scores.float().cpu().numpy()
    return Output(tokens, scores)
