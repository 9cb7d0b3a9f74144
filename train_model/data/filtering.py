"""Drops pairs of a source and a machine's translation that a network should not learn from."""

from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_PATTERN = 4
"""Tokens of the longest sequence whose repetition is counted."""


@dataclass(frozen=True)
class PairFilter:
    """The bounds of a pair; None does not look at it.

    Attributes:
        max_ratio: tokens of the longer side divided by those of the shorter one, each with eos.
        max_repeats: how often the same 1 to ``LONGEST_PATTERN`` tokens may stand in the target in a row.
        min_score: the score of the translation.
    """

    max_ratio: float | None = None
    max_repeats: int | None = None
    min_score: float | None = None

    def reason(self, source: Sequence[int], target: Sequence[int], score: float) -> str:
        """Return why a pair is dropped: "length ratio", "repetition" or "score"; "" if it is kept."""
        shorter, longer = sorted((len(source), len(target)))
        if self.max_ratio is not None and longer > self.max_ratio * shorter:
            return "length ratio"
        if self.max_repeats is not None and repeats(target) > self.max_repeats:
            return "repetition"
        if self.min_score is not None and score < self.min_score:
            return "score"
        return ""


def repeats(tokens: Sequence[int]) -> int:
    """Return how often the same tokens stand in a row: 1 without a repetition, 3 for ``a b a b a b``."""
    most = 1
    for length in range(1, LONGEST_PATTERN + 1):
        run = 0  # tokens that equal the one ``length`` places before them
        for before, token in zip(tokens, tokens[length:], strict=False):
            run = run + 1 if before == token else 0
            most = max(most, 1 + run // length)
    return most
