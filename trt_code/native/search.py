"""Beam search in a native program, with the interface of ``train_model.models.numpy_search``."""

import ctypes

import numpy as np

from train_model.models.hypotheses import Found, SearchOptions, collect
from trt_code.native.program import LoadedProgram, address


def search(
    program: LoadedProgram, src_tokens: np.ndarray, options: SearchOptions, threads: int
) -> Found:
    """Translate source tokens [B, S] int64; the sentences are divided among the threads.

    Gives the results of :func:`train_model.models.numpy_search.search`.

    Raises:
        ValueError: the length limits contradict each other, or the options have ``no_repeat_ngram``.
        UserError: the beam does not fit the vocabulary; or see :meth:`LoadedProgram.search`.
    """
    batch, beam = len(src_tokens), options.beam
    longest = options.max_length(src_tokens.shape[1], program.max_target)
    options.check_vocabulary(program.target_vocab)
    if options.no_repeat_ngram:
        raise ValueError("the native search has no no_repeat_ngram; choose the runner ort")
    src_tokens = np.ascontiguousarray(src_tokens, np.int64)
    past = [np.zeros((longest + 1, batch, beam), kind) for kind in (np.int64, np.int64, np.float32)]
    counts, ends = np.zeros(batch, np.int64), np.zeros((batch, beam), np.int64)
    end_totals = np.zeros((batch, beam), np.float32)
    numbers = (batch, src_tokens.shape[1], beam, longest, options.min_len)
    steps = program.search(
        address(src_tokens),
        *map(ctypes.c_int, numbers),
        ctypes.c_float(options.unk_penalty),
        ctypes.c_int(threads),
        *map(address, (*past, counts, ends, end_totals)),
    )
    return collect([kept[:steps] for kept in past], counts, ends, end_totals, options.len_penalty)
