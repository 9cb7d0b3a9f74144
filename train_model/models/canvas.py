"""The decoder's first input, made on the host for a decoder that is a file or an engine of its own."""

import numpy as np

from train_model.data.dictionary import BOS, EOS, PAD, UNK


def initial_canvas(lengths: np.ndarray, width: int) -> np.ndarray:
    """As ``ConvCrfTransformer.initial_canvas``: lengths [B] to a canvas [B, width] int64.

    ``<s> <unk> ... <unk> </s> <pad> ...``; lengths greater than the width are cut to it.
    """
    index = np.arange(width)
    last = np.minimum(lengths, width)[:, None] - 1
    canvas = np.where(index < last, UNK, np.where(index == last, EOS, PAD))
    canvas[:, 0] = BOS
    return canvas
