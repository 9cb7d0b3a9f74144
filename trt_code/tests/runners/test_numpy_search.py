"""The search on NumPy arrays gives the same as the search on tensors."""

import numpy as np
import pytest
import torch

from train_model.cli import UserError
from train_model.models import beam_search, numpy_search
from train_model.models.hypotheses import SearchOptions

EOS = 2


class Markov:
    """Steps whose next token depends on the last two of a hypothesis, and on the source's first token."""

    def __init__(self, words, seed):
        generator = np.random.default_rng(seed)
        logits = generator.normal(size=(words, words, words)).astype(np.float32) * 2
        self.table = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        self.vocab_size, self.max_target = words, 1024

    def encode(self, src_tokens):
        return [src_tokens[:, :1]]

    def state_shapes(self, rows, room):
        return [(rows, 1, 1)]

    def step(self, tokens, parents, position, source, state):
        (last,), (first,) = state, source
        last = last.reshape(tokens.shape) if position else np.full(tokens.shape, EOS)
        before = np.take_along_axis(last, parents, 1).astype(int)
        logprobs = self.table[(before + first) % self.vocab_size, tokens]
        return logprobs, [tokens.reshape(-1, 1, 1).astype(np.float32)]


class OnTensors:
    """The same steps with the interface that the search on tensors calls."""

    def __init__(self, steps):
        self.steps, self.vocab_size = steps, steps.vocab_size
        self.max_target_positions = steps.max_target

    def begin(self, src_tokens, beam, max_steps):
        self.source = self.steps.encode(src_tokens.numpy())
        self.state, self.position = [np.zeros((len(src_tokens) * beam, 1, 1))], 0

    def step(self, tokens, parents):
        logprobs, self.state = self.steps.step(
            tokens.numpy(), parents.numpy(), self.position, self.source, self.state
        )
        self.position += 1
        return torch.from_numpy(logprobs)


@pytest.mark.parametrize("beam", [1, 2, 5])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"len_penalty": 0.6, "min_len": 4, "unk_penalty": 2.0},
        {"max_len_b": 3},
        {"no_repeat_ngram": 2, "len_penalty": 2.0},
    ],
)
def test_the_search_on_tensors_finds_the_same(beam, options):
    options = SearchOptions(beam=beam, **{"max_len_b": 40} | options)
    steps = Markov(30, seed=beam)
    source = np.arange(4, 11)[:, None] + np.zeros((7, 3), np.int64)
    found = numpy_search.search(steps, source, options)
    expected = beam_search.search(OnTensors(steps), torch.from_numpy(source), options)
    assert found.counts.all()
    assert len({tuple(row) for row in found.tokens[:, 0].tolist()}) > 3
    for name in ("counts", "tokens", "lengths"):
        assert (getattr(found, name) == getattr(expected, name)).all(), name
    for name in ("scores", "positional_scores"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5)


def test_a_beam_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="a beam of 15 does not fit a vocabulary of 30"):
        numpy_search.search(Markov(30, 1), np.zeros((1, 3), np.int64), SearchOptions(beam=15))
    with pytest.raises(ValueError, match="min_len 5 is above the longest output, 3"):
        numpy_search.search(
            Markov(30, 1), np.zeros((1, 3), np.int64), SearchOptions(min_len=5, max_len_b=3)
        )
