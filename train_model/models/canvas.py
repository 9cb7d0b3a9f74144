"""The canvas of a one-pass network: how wide it is, and the decoder's first input made on the host."""

from collections.abc import Callable
from typing import Any

import numpy as np

from train_model.data.dictionary import BOS, EOS, PAD, UNK

PER_SOURCE_TOKEN = 2  # target positions


def canvas_width(src_len: Any, target_positions: int, minimum: Callable = min) -> Any:
    """Return the width of the whole canvas for sources of ``src_len`` tokens, padding included.

    ``minimum`` is ``torch.sym_min`` if ``src_len`` is a symbol of a trace.
    """
    return minimum(PER_SOURCE_TOKEN * src_len, target_positions)


def initial_canvas(lengths: np.ndarray, width: int) -> np.ndarray:
    """Return the canvas [B, width] int64 of ``lengths`` [B], as ``ConvCrfTransformer.initial_canvas`` does.

    A row is ``<s> <unk> ... <unk> </s> <pad> ...``; lengths greater than the width are cut to it.
    """
    index = np.arange(width)
    last = np.minimum(lengths, width)[:, None] - 1
    canvas = np.where(index < last, UNK, np.where(index == last, EOS, PAD))
    canvas[:, 0] = BOS
    return canvas
