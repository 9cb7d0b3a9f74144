"""Does a runner give what PyTorch FP32 gives? The numbers of the table's right half, and the verdict.

A single score can jump without anything being wrong: the CRF reads it through the rank of the next
candidate (``lite::crf_decode``), and rounding swaps the ranks of candidates that nearly tie. So the
verdict looks at tokens, at the median difference of the scores and, in FP32, at their sum over a
sentence, which no tie changes; the largest difference is shown and only has to be finite.

FP32 has to be close. A lower precision has to keep the seed's bounds; where these are out of reach for
the weights at hand (random ones give near ties everywhere), it may be at most twice as far off as
PyTorch itself is in that precision on the same batch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from train_model.data.dictionary import PAD
from trt_code.runners import Output


@dataclass(frozen=True)
class Agreement:
    """How two outputs compare, or how far apart they may be.

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
        """Whether this is finite and at least as good as ``limit``."""
        return (
            math.isfinite(self.absolute)
            and self.tokens >= limit.tokens
            and self.relative <= limit.relative
            and self.path <= limit.path
        )


FP32_LIMIT = Agreement(tokens=0.999, relative=1e-4, path=1e-4, absolute=math.inf)
SEED_LIMIT = Agreement(tokens=0.94, relative=5e-3, path=math.inf, absolute=math.inf)


def compare(output: Output, reference: Output) -> Agreement:
    """Compare over the positions that are a token in either of the two.

    The padding behind is equal by construction and would flatter every runner. The canvases may
    differ in width where only padding follows.
    """
    width = max(output.tokens.shape[1], reference.tokens.shape[1])

    def widen(array: np.ndarray, fill: int) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)

    ours, theirs = widen(output.tokens, PAD), widen(reference.tokens, PAD)
    real = (ours != PAD) | (theirs != PAD)
    score, expected = (widen(o.scores, 0).astype(np.float64) for o in (output, reference))
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
    """The table's last column: starts with Good, Bad or, for PyTorch's own rounding, yardstick.

    Args:
        agreement: the runner's, against PyTorch FP32.
        runner: its name; "torch" is not measured by itself.
        precision: its precision.
        torch_agreement: gives PyTorch's own in that precision on the same batch, None where it has
            none. Called only if it is needed, since it costs a pass.
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
