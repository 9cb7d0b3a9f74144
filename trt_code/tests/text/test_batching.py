"""Batches hold every sentence once, within bounds, grouped by length."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_code.runners.buckets import batch_bucket, length_bucket
from trt_code.text import batching

LENGTHS = st.lists(st.integers(1, 60), max_size=80)


@given(LENGTHS, st.integers(1, 200), st.integers(1, 20))
def test_by_length_keeps_every_sentence_and_the_bounds(lengths, max_tokens, max_sentences):
    batches = list(batching.by_length(lengths, max_tokens, max_sentences))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        width = max(lengths[i] for i in batch)
        assert len(batch) <= max_sentences
        assert len(batch) == 1 or len(batch) * width <= max_tokens
    widths = [lengths[i] for batch in batches for i in batch]
    assert widths == sorted(widths, reverse=True)


@given(LENGTHS, st.integers(1, 200), st.integers(1, 20))
def test_by_length_leaves_no_room_for_a_larger_shape(lengths, max_tokens, max_sentences):
    batches = list(batching.by_length(lengths, max_tokens, max_sentences))
    for batch in batches[:-1]:
        larger = batch_bucket(len(batch) + 1)
        assert larger > max_sentences or larger * length_bucket(lengths[batch[0]]) > max_tokens


def test_the_batches_of_a_large_text_have_few_shapes():
    """A GPU's runner times products and captures graphs for each."""
    lengths = np.random.default_rng(1).integers(3, 60, 8192)
    batches = list(batching.by_length(lengths, 8192, 256))
    shapes = {(batch_bucket(len(b)), length_bucket(lengths[b[0]])) for b in batches}
    assert len(shapes) <= 9  # one for each of eight lengths, and the last batch


@given(st.lists(st.lists(st.integers(2, 90), max_size=9), min_size=1, max_size=9), st.randoms())
def test_rows_in_one_array_are_padded_as_lists_are(rows, chance):
    def packed(some):
        tokens = np.array([token for row in some for token in row], np.int64)
        return batching.Rows(tokens, np.array([len(row) for row in some], np.int64))

    joined = batching.Rows.joined([packed(rows[:2]), packed(rows[2:])])
    chosen = [chance.randrange(len(rows)) for _ in range(5)]
    expected = batching.pad([rows[i] for i in chosen])
    np.testing.assert_array_equal(joined.padded(chosen), expected)


def test_pad_fills_on_the_right():
    padded = batching.pad([[0, 7, 2], [0, 2]])
    np.testing.assert_array_equal(padded, [[0, 7, 2], [0, 2, 1]])
    assert padded.dtype == np.int64
    assert batching.pad([[0, 2]], width=4).tolist() == [[0, 2, 1, 1]]


@pytest.mark.parametrize(
    ("length", "count", "expected"),
    [(5, 2, [5, 5]), (6, 3, [5, 5, 3]), (3, 3, [3, 2, 3]), (1, 4, [])],
)
def test_nearest_takes_the_longest_that_fit(length, count, expected):
    lengths = [2, 9, 5, 3, 5]
    assert [lengths[i] for i in batching.nearest(lengths, length, count)] == expected
