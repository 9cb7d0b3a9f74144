"""Several translations of a one-pass network: of the predicted length and of the lengths next to it."""

from collections.abc import Callable

import numpy as np

from train_model.data.dictionary import PAD
from train_model.models.hypotheses import Found
from trt_code.runners.base import Output, rank, widen

SHORTEST = 3  # tokens: bos, one word, eos


def translate_lengths(
    predicted: np.ndarray, count: int, widest: int, decode: Callable[[np.ndarray], Output]
) -> Found:
    """Decode ``count`` lengths of each sentence, and rank the translations.

    Args:
        predicted: lengths [B], bos and eos included.
        count: translations per sentence; fewer for a sentence that has fewer possible lengths.
        widest: the greatest length.
        decode: translates the batch with the given lengths [B].
    """
    outputs = []
    for lengths in nearest_lengths(predicted, count, widest).T:
        output = decode(np.maximum(lengths, SHORTEST))
        output.tokens[lengths == 0] = PAD
        outputs.append(output)
    return rank(outputs)


def nearest_lengths(predicted: np.ndarray, count: int, widest: int) -> np.ndarray:
    """Return the ``count`` lengths nearest to each predicted length [B], this one first, as [B, count].

    Each leaves room for a token between bos and eos and is at most ``widest``; missing ones are 0.
    """
    predicted = np.clip(predicted, 2, widest)
    offsets = np.array(sorted(range(-widest, widest + 1), key=lambda offset: (abs(offset), offset)))
    lengths = predicted[:, None] + offsets
    valid = (lengths == predicted[:, None]) | ((lengths >= SHORTEST) & (lengths <= widest))
    order = np.argsort(~valid, axis=1, kind="stable")[:, :count]
    chosen = np.take_along_axis(np.where(valid, lengths, 0), order, 1)
    return widen(chosen, count, fill=0)
