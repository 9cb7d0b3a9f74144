"""Does a runner give what PyTorch FP32 gives? The numbers of the table's right half, and the verdict.

FP32 has to be close. A lower precision has to keep the seed's bounds; where these are out of reach for
the weights at hand (random ones give near ties everywhere), it may be at most twice as far off as
PyTorch itself is in that precision on the same batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from train_model.data.dictionary import PAD
from trt_code.runners import Output


@dataclass(frozen=True)
class Agreement:
    """How two outputs compare.

    Attributes:
        tokens: share of positions with the same token.
        absolute: largest absolute difference of the scores.
        relative: median relative difference of the scores.
    """

    tokens: float
    absolute: float
    relative: float

    def within(self, limit: "Agreement") -> bool:
        """Whether this is at least as good as ``limit``; NaN never is."""
        return (
            self.tokens >= limit.tokens
            and self.absolute <= limit.absolute
            and self.relative <= limit.relative
        )

    def is_finite(self) -> bool:
        """Whether there is no NaN or infinity in it."""
        return bool(np.isfinite([self.tokens, self.absolute, self.relative]).all())


FP32_LIMIT = Agreement(tokens=0.999, absolute=1e-2, relative=1e-4)
SEED_LIMIT = Agreement(tokens=0.94, absolute=1.0, relative=5e-3)


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
    score = widen(output.scores, 0).astype(np.float64)[real]
    expected = widen(reference.scores, 0).astype(np.float64)[real]
    difference = np.abs(score - expected)
    return Agreement(
        tokens=float((ours == theirs)[real].mean()),
        absolute=float(difference.max()),
        relative=float(np.median(difference / (np.abs(expected) + 1e-5))),
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
        return "yardstick" if agreement.is_finite() else "Bad"
    own = torch_agreement()
    if own is None:
        return "Bad"
    twice = Agreement(1 - 2 * (1 - own.tokens), 2 * own.absolute, 2 * own.relative)
    return f"Good, as PyTorch {precision}" if agreement.within(twice) else "Bad"
