"""Translation in one pass by a native program."""

import ctypes

import numpy as np

from train_model.data.dictionary import PAD
from train_model.models.canvas import canvas_width
from trt_code.native.program import LoadedProgram, address


def translate(
    program: LoadedProgram, src_tokens: np.ndarray, threads: int, lengths: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Translate source tokens [B, S] int64; the sentences are divided among the threads.

    Args:
        lengths: target lengths [B] int64 with bos and eos; None for the predicted ones.

    Returns:
        tokens [B, T] int64 and scores [B, T] float32, T the longest translation; then the predicted lengths
        [B] int64.

    Raises:
        UserError: see :meth:`LoadedProgram.translate`.
    """
    src_tokens = np.ascontiguousarray(src_tokens, np.int64)
    batch, width = src_tokens.shape
    room = canvas_width(width, program.max_target)
    tokens, scores = np.full((batch, room), PAD), np.zeros((batch, room), np.float32)
    predicted = np.empty(batch, np.int64)
    if lengths is not None:
        lengths = np.ascontiguousarray(lengths, np.int64)
    program.translate(
        address(src_tokens),
        *map(ctypes.c_int, (batch, width)),
        None if lengths is None else address(lengths),
        ctypes.c_int(threads),
        *map(address, (predicted, tokens, scores)),
        ctypes.c_int(room),
    )
    used = predicted if lengths is None else lengths
    longest = int(np.clip(used, min(2, room), room).max())  # pad may be a chosen token
    return tokens[:, :longest], scores[:, :longest], predicted
