"""Which pairs a filter drops, and how often tokens repeat."""

import pytest

from train_model.data.filtering import PairFilter, repeats


@pytest.mark.parametrize(
    ("tokens", "most"),
    [
        ("", 1),
        ("a", 1),
        ("abcd", 1),
        ("aab", 2),
        ("abab", 2),
        ("xababab", 3),
        ("abcabcab", 2),
        ("abcdabcd", 2),
        ("abcdeabcde", 1),
        ("baaaab", 4),
    ],
)
def test_repeats(tokens, most):
    assert repeats([ord(letter) for letter in tokens]) == most


def test_reasons():
    bounds = PairFilter(max_ratio=2, max_repeats=2, min_score=-1)
    assert bounds.reason([1] * 4, [1, 2], -1.0) == ""
    assert bounds.reason([1] * 5, [1, 2], 0) == "length ratio"
    assert bounds.reason([1, 2], [1, 2, 3, 4, 5], 0) == "length ratio"
    assert bounds.reason([1, 2], [3, 3, 3], 0) == "repetition"
    assert bounds.reason([1, 2], [3, 3], -1.1) == "score"
    assert PairFilter().reason([1] * 9, [1], -99) == ""
