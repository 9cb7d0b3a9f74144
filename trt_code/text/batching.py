"""Groups sentences of any length into batches for a runner."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from train_model.data.dictionary import PAD
from trt_code.runners.buckets import full_batch, length_bucket


def by_length(lengths: Sequence[int], max_tokens: int, max_sentences: int) -> Iterator[list[int]]:
    """Group sentences of similar length, longest first.

    The first batch then needs the most memory: a lack of memory shows at once, and allocators grow
    only once. Batches have few shapes (``trt_code.runners.buckets``), since a GPU's runner prepares for each.

    Args:
        lengths: tokens of each sentence.
        max_tokens: largest number of tokens per batch, padding included. A longer sentence gets its
            own batch.
        max_sentences: largest number of sentences per batch.

    Yields:
        Indices into ``lengths``, each once.
    """
    sizes = np.asarray(lengths, np.int64)
    order = np.argsort(-sizes, kind="stable")
    at = 0
    while at < len(order):
        # the first sentence of a batch is its longest, so it gives the width
        fitting = max_tokens // max(1, length_bucket(int(sizes[order[at]])))
        batch = order[at : at + full_batch(max(1, min(fitting, max_sentences)))]
        yield batch.tolist()
        at += len(batch)


@dataclass(frozen=True)
class Rows:
    """Token rows, one after the other.

    Attributes:
        tokens: of all rows [sum of lengths], of any type of integers.
        lengths: of the rows [N].
    """

    tokens: np.ndarray
    lengths: np.ndarray

    @classmethod
    def without_padding(cls, batch: np.ndarray) -> Self:
        """Return the rows of [B, T] tokens."""
        real = batch != PAD
        return cls(batch[real], real.sum(axis=1))

    def small(self) -> Self:
        """Return the rows in the smallest type that holds the tokens, to be sent to another process."""
        most = self.tokens.max(initial=0)
        tokens = self.tokens.astype(np.uint16 if most < 2**16 else np.int32)
        return type(self)(tokens, self.lengths.astype(np.int32))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of several parts, in their order."""
        return cls(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.lengths for part in parts]),
        )

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum(self.lengths) - self.lengths

    def padded(self, chosen: Sequence[int]) -> np.ndarray:
        """Return the chosen rows as one array, as :func:`pad` does."""
        lengths = self.lengths[chosen]
        columns = np.arange(lengths.max())
        taken = self.tokens.take(self._starts[chosen][:, None] + columns, mode="clip")
        batch = taken.astype(np.int64)
        batch[columns >= lengths[:, None]] = PAD
        return batch


def pad(rows: Sequence[Sequence[int]], width: int | None = None) -> np.ndarray:
    """Return token rows as one array [B, S] int64, padded on the right to ``width`` or the longest row."""
    width = width or max(map(len, rows))
    batch = np.full((len(rows), width), PAD, dtype=np.int64)
    for i, row in enumerate(rows):
        batch[i, : len(row)] = row
    return batch


def nearest(lengths: Sequence[int], length: int, count: int) -> list[int]:
    """Return the indices of the ``count`` longest sentences of at most ``length`` tokens.

    If there are fewer, they are repeated. The list is empty if no sentence is short enough.
    """
    fitting = sorted(
        (i for i in range(len(lengths)) if lengths[i] <= length), key=lambda i: -lengths[i]
    )
    return [fitting[i % len(fitting)] for i in range(count)] if fitting else []
