"""Compares a runner's results with PyTorch FP32: the right half of the benchmark's table, and its verdict.

A single score can change a lot in a correct runner: the CRF reads it through the rank of the next candidate
(``lite::crf_decode``), and rounding swaps the ranks of candidates that nearly tie. So the verdict uses the
tokens, the median difference of the scores and, in FP32, the sum of the scores over a sentence, which does
not depend on ties. The largest difference is printed and only has to be finite.

FP32 has to be close. A lower precision has to keep the seed's bounds. Some weights cannot meet them (random
weights give near ties everywhere); then its error may be at most twice the error of PyTorch in that
precision on the same batch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from train_model.data.dictionary import PAD
from trt_code.runners import Output
from trt_code.runners.base import widen


@dataclass(frozen=True)
class Agreement:
    """The differences between two outputs, or the bounds of such differences.

    Attributes:
        tokens: share of positions with the same token.
        relative: median relative difference of the scores.
        path: largest relative difference of a sentence's sum of scores.
        absolute: largest absolute difference of the scores.
    """

    tokens: float
    relative: float
    path: float
    absolute: float

    def within(self, limit: "Agreement") -> bool:
        """Return whether the differences are finite and within ``limit``."""
        return (
            math.isfinite(self.absolute)
            and self.tokens >= limit.tokens
            and self.relative <= limit.relative
            and self.path <= limit.path
        )


FP32_LIMIT = Agreement(tokens=0.999, relative=1e-4, path=1e-4, absolute=math.inf)
SEED_LIMIT = Agreement(tokens=0.94, relative=5e-3, path=math.inf, absolute=math.inf)


def compare(output: Output, reference: Output) -> Agreement:
    """Compare two outputs at the positions where either has a token.

    The padding after the tokens is always equal, so to count it would hide errors. The canvases may
    differ in width if only padding follows.
    """
    width = max(output.tokens.shape[1], reference.tokens.shape[1])
    ours, theirs = (widen(o.tokens, width) for o in (output, reference))
    real = (ours != PAD) | (theirs != PAD)
    score, expected = (
        widen(o.scores, width, fill=0).astype(np.float64) for o in (output, reference)
    )
    difference = np.abs(score - expected)[real]
    return Agreement(
        tokens=float((ours == theirs)[real].mean()),
        relative=float(np.median(difference / (np.abs(expected[real]) + 1e-5))),
        path=float((np.abs((score - expected).sum(1)) / (np.abs(expected.sum(1)) + 1e-5)).max()),
        absolute=float(difference.max()),
    )


def verdict(
    agreement: Agreement,
    runner: str,
    precision: str,
    torch_agreement: Callable[[], Agreement | None],
) -> str:
    """Return the last column of the table: begins with Good, Bad, or yardstick for PyTorch itself.

    Args:
        agreement: the runner's, against PyTorch FP32.
        runner: its name; "torch" is not measured by itself.
        precision: its precision.
        torch_agreement: returns PyTorch's agreement in that precision on the same batch, or None if
        PyTorch does not offer the precision. Called only if needed, since it costs a pass.
    """
    if precision == "fp32":
        return "Good" if agreement.within(FP32_LIMIT) else "Bad"
    if agreement.within(SEED_LIMIT):
        return "Good"
    if runner == "torch":
        return "yardstick" if math.isfinite(agreement.absolute) else "Bad"
    own = torch_agreement()
    if own is None:
        return "Bad"
    limit = Agreement(
        tokens=min(SEED_LIMIT.tokens, 1 - 2 * (1 - own.tokens)),
        relative=max(SEED_LIMIT.relative, 2 * own.relative),
        path=SEED_LIMIT.path,
        absolute=SEED_LIMIT.absolute,
    )
    return f"Good, as PyTorch {precision}" if agreement.within(limit) else "Bad"
