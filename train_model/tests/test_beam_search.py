"""Beam search agrees with exhaustive search, and keeps its limits.

test_transformer_multibranch_v2 compares it with the generators of fairseq and mit-han-lab.
"""

import itertools

import pytest
import torch

from train_model.cli import UserError
from train_model.models.beam_search import Search, as_hypotheses, beam_search
from train_model.models.hypotheses import SearchOptions

EOS, PAD = 2, 1


class Markov:
    """A decoder whose next token depends on the last two; a translation's score can be looked up."""

    def __init__(self, vocab_size, seed=0, max_target_positions=1024):
        generator = torch.Generator().manual_seed(seed)
        shape = (vocab_size, vocab_size, vocab_size)
        self.table = torch.randn(shape, generator=generator).mul(2).log_softmax(-1)
        self.vocab_size, self.max_target_positions = vocab_size, max_target_positions

    def begin(self, src_tokens, beam, max_steps):
        self.before = torch.full((len(src_tokens), beam), EOS)
        self.last = self.before

    def step(self, tokens, parents):
        self.before = self.last.gather(1, parents)
        self.last = tokens.clone()
        return self.table[self.before, tokens].clone()

    def score(self, sentence):
        """Log-probability of a sentence that ends in eos; it starts after two eos."""
        path = [EOS, EOS, *sentence]
        steps = zip(path, path[1:], path[2:], strict=False)
        return sum(self.table[step].item() for step in steps)


def everything(decoder, options, width):
    """All sentences the options allow with their scores, best first."""
    longest = options.max_length(width, decoder.max_target_positions)
    words = [w for w in range(decoder.vocab_size) if w not in (PAD, EOS)]
    found = []
    for length in range(options.min_len, longest + 1):
        for sentence in itertools.product(words, repeat=length):
            tokens = [*sentence, EOS]
            score = decoder.score(tokens) / len(tokens) ** options.len_penalty
            found.append((score, tokens))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("len_penalty", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_the_best_of_all_sentences(len_penalty):
    """A beam of three among eight symbols finds the same sentence as a search of all sentences."""
    decoder = Markov(8, seed=3)
    options = SearchOptions(beam=3, max_len_b=3, len_penalty=len_penalty)
    source = torch.full((1, 4), 5)
    best = beam_search(decoder, source, options)[0][0]
    score, tokens = everything(decoder, options, 4)[0]
    assert best.tokens.tolist() == tokens
    assert best.score == pytest.approx(score, abs=1e-5)


def test_scores_are_those_of_the_sentence():
    decoder = Markov(30, seed=1)
    options = SearchOptions(beam=4, max_len_b=12, len_penalty=0.6)
    for hypotheses in beam_search(decoder, torch.full((5, 4), 5), options):
        assert len(hypotheses) == 4
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for hypothesis in hypotheses:
            tokens = hypothesis.tokens.tolist()
            assert tokens.index(EOS) == len(tokens) - 1
            total = decoder.score(tokens)
            assert hypothesis.positional_scores.sum().item() == pytest.approx(total, abs=1e-4)
            assert hypothesis.score == pytest.approx(total / len(tokens) ** 0.6, abs=1e-4)


def test_limits_hold():
    decoder = Markov(30, seed=2)
    options = SearchOptions(beam=5, min_len=4, max_len_a=0.5, max_len_b=3, no_repeat_ngram=2)
    for hypothesis in itertools.chain(*beam_search(decoder, torch.full((3, 8), 5), options)):
        tokens = hypothesis.tokens.tolist()
        assert 4 <= len(tokens) - 1 <= 7
        assert PAD not in tokens
        pairs = list(itertools.pairwise([EOS, *tokens]))
        assert len(set(pairs)) == len(pairs)


def test_the_decoders_positions_end_a_sentence():
    decoder = Markov(30, seed=2, max_target_positions=6)
    for hypothesis in itertools.chain(
        *beam_search(decoder, torch.full((2, 8), 5), SearchOptions(3))
    ):
        assert len(hypothesis.tokens) <= 6


def test_an_unk_penalty_makes_unk_rare():
    decoder = Markov(8, seed=5)
    source = torch.full((1, 3), 5)
    free, fined = (
        beam_search(decoder, source, SearchOptions(beam=1, max_len_b=6, unk_penalty=penalty))[0][0]
        for penalty in (-1e3, 1e3)
    )
    assert free.tokens.tolist().count(3) == 6
    assert 3 not in fined.tokens.tolist()


def test_an_extra_step_changes_nothing():
    """A step after the end of the search changes nothing; a search can restart in the same memory."""
    decoder, options = Markov(30, seed=4), SearchOptions(beam=3, max_len_b=300, len_penalty=0.6)
    decoder.table[:, 5:, EOS] = -2  # else the search would repeat itself
    state = Search(2, 30, 300, options, torch.device("cpu"))
    for source in (torch.full((2, 4), 5), torch.full((2, 4), 6)):
        state.restart()
        decoder.begin(source, 3, 301)
        while not state.done:
            state.advance(decoder.step(state.tokens, state.parents))
        expected = state.found()
        with state.kept():
            state.restart()
        state.advance(decoder.step(state.tokens, state.parents))
        found = state.found()
        assert found.counts.tolist() == [3, 3]
        for name, value in vars(expected).items():
            assert (getattr(found, name) == value).all(), name
        tokens = [h.tokens.tolist() for h in beam_search(decoder, source, options)[1]]
        assert [h.tokens.tolist() for h in as_hypotheses(found)[1]] == tokens


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        (SearchOptions(beam=4), UserError, "does not fit"),
        (SearchOptions(beam=0), UserError, "does not fit"),
        (SearchOptions(beam=1, max_len_b=2, min_len=3), ValueError, "min_len 3"),
    ],
)
def test_impossible_options_are_refused(options, error, word):
    with pytest.raises(error, match=word):
        beam_search(Markov(8), torch.full((1, 3), 5), options)


def test_a_word_may_follow_itself_once_where_pairs_may_not_repeat():
    class Stubborn(Markov):
        """Prefers the same symbol everywhere."""

        def __init__(self):
            super().__init__(8)
            self.table.fill_(-3)
            self.table[..., 5] = -0.1

    options = SearchOptions(beam=1, min_len=4, max_len_b=4, no_repeat_ngram=2)
    ((best,),) = beam_search(Stubborn(), torch.full((1, 2), 5), options)
    tokens = best.tokens.tolist()
    assert tokens[:2] == [5, 5]
    assert tokens[2] != 5
