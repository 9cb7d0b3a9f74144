"""The comparison checked against a loop over positions, and the rules of the verdict."""

import math

import numpy as np
import pytest

from trt_code.measure.agreement import Agreement, compare, verdict
from trt_code.runners import Output

CLOSE = Agreement(tokens=1.0, relative=1e-7, path=1e-7, absolute=1e-5)
TIED = Agreement(tokens=1.0, relative=1e-7, path=1e-7, absolute=9.0)
SEED = Agreement(tokens=0.95, relative=4e-3, path=0.2, absolute=0.5)
ROUGH = Agreement(tokens=0.8, relative=0.1, path=0.3, absolute=5.0)
NAN = Agreement(tokens=1.0, relative=math.nan, path=math.nan, absolute=math.nan)
NAN_ONCE = Agreement(tokens=1.0, relative=0.0, path=0.0, absolute=math.nan)


def own(tokens: float, relative: float) -> Agreement:
    """The agreement of PyTorch itself in the low precision."""
    return Agreement(tokens, relative, path=9.0, absolute=9.0)


def output(tokens, scores) -> Output:
    return Output(np.array(tokens), np.array(scores, np.float32))


def test_compare_counts_positions_that_are_a_token_in_either():
    ours = output(
        [[0, 5, 6, 2, 1, 1], [0, 9, 2, 1, 1, 1]], [[1, 2, 3, 4, 0, 0], [1, 2, 3, 0, 0, 0]]
    )
    theirs = output([[0, 5, 7, 2, 1], [0, 9, 8, 2, 1]], [[1, 2, 3, 4.5, 0], [1, 2, 1, 5, 0]])
    # by hand: positions 0-3 of the first row, 0-3 of the second; 3 + 2 of these 8 are equal
    differences = [0, 0, 0, 0.5, 0, 0, 2, 5]
    expected = [1, 2, 3, 4.5, 1, 2, 1, 5]
    relative = sorted(d / (e + 1e-5) for d, e in zip(differences, expected, strict=True))
    agreement = compare(ours, theirs)
    assert agreement.tokens == 5 / 8
    assert agreement.absolute == 5
    assert agreement.relative == pytest.approx((relative[3] + relative[4]) / 2)
    # path scores 10 and 6 against 10.5 and 9
    assert agreement.path == pytest.approx(3 / 9, rel=1e-4)


def test_compare_is_not_flattered_by_padding():
    wide = np.ones((1, 100), int)
    ours, theirs = wide.copy(), wide.copy()
    ours[0, :2], theirs[0, :2] = (0, 5), (0, 6)
    zero = np.zeros((1, 100), np.float32)
    assert compare(Output(ours, zero), Output(theirs, zero)).tokens == 0.5


@pytest.mark.parametrize(
    ("agreement", "runner", "precision", "torch", "expected"),
    [
        (CLOSE, "ort", "fp32", None, "Good"),
        (TIED, "ort", "fp32", None, "Good"),
        (SEED, "ort", "fp32", None, "Bad"),
        (SEED, "ort", "fp16", None, "Good"),
        (ROUGH, "ort", "fp16", None, "Bad"),
        (ROUGH, "ort", "fp16", own(0.9, 0.05), "Good, as PyTorch fp16"),
        (ROUGH, "ort", "fp16", own(0.91, 9.0), "Bad"),
        (ROUGH, "ort", "fp16", own(0.5, 0.04), "Bad"),
        (ROUGH, "torch", "fp16", None, "yardstick"),
        (NAN, "torch", "fp16", None, "Bad"),
        (NAN, "ort", "fp32", None, "Bad"),
        (NAN_ONCE, "ort", "fp32", None, "Bad"),
        (NAN_ONCE, "ort", "fp16", ROUGH, "Bad"),
    ],
)
def test_verdict(agreement, runner, precision, torch, expected):
    assert verdict(agreement, runner, precision, lambda: torch) == expected


def test_torch_is_not_run_where_it_is_not_needed():
    def refuse():
        raise AssertionError("this pass is not needed")

    assert verdict(SEED, "ort", "fp16", refuse) == "Good"
    assert verdict(ROUGH, "torch", "fp16", refuse) == "yardstick"
