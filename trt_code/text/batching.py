"""Groups sentences of any length into batches for a runner."""

from collections.abc import Iterator, Sequence

import numpy as np

from train_model.data.dictionary import PAD


def by_length(lengths: Sequence[int], max_tokens: int, max_sentences: int) -> Iterator[list[int]]:
    """Group sentences of similar length, longest first.

    The first batch then needs the most memory: a lack of memory shows at once, and allocators grow
    only once.

    Args:
        lengths: tokens of each sentence.
        max_tokens: largest number of tokens per batch, padding included. A longer sentence gets its
        own batch.
        max_sentences: largest number of sentences per batch.

    Yields:
        Indices into ``lengths``, each once.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        # the first sentence of a batch is its longest, so it gives the width
        full = batch and (len(batch) + 1) * lengths[batch[0]] > max_tokens
        if full or len(batch) == max_sentences:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def pad(rows: Sequence[Sequence[int]], width: int | None = None) -> np.ndarray:
    """Token rows as one array [B, S] int64, padded on the right to ``width`` or the longest row."""
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
