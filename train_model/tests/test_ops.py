"""The operators compared with fairseq's formulas in float64 and with brute force."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train_model.ops import crf_decode, crf_normaliser, dynamic_conv

shapes = st.tuples(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)
)


def conv_by_definition(x, weight, padding_l):
    """Return the sum in the operator's docstring, element by element, in float64."""
    batch, channels, length = x.shape
    heads, kernel_size = weight.shape[1:3]
    y = torch.zeros(x.shape, dtype=torch.float64)
    for b, c, t, k in itertools.product(*map(range, (batch, channels, length, kernel_size))):
        if 0 <= t + k - padding_l < length:
            h = c // (channels // heads)
            y[b, c, t] += weight[b, h, k, t].double() * x[b, c, t + k - padding_l].double()
    return y


@settings(max_examples=60, deadline=None)
@given(shape=shapes, data=st.data())
def test_dynamic_conv_is_its_definition(shape, data):
    batch, heads, per_head, kernel_size, length = shape
    padding_l = data.draw(st.integers(0, kernel_size - 1))
    torch.manual_seed(data.draw(st.integers(0, 2**16)))
    x = torch.randn(batch, heads * per_head, length)
    weight = torch.randn(batch, heads, kernel_size, length)
    expected = conv_by_definition(x, weight, padding_l)
    y = dynamic_conv(x, weight, padding_l).double()
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel_size", "padding_l", "length"), [(3, 1, 5), (4, 3, 2), (5, 0, 1)])
def test_dynamic_conv_gradients(kernel_size, padding_l, length):
    x = torch.randn(2, 6, length, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, kernel_size, length, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: dynamic_conv(x, w, padding_l), (x, weight))


def test_dynamic_conv_follows_pytorchs_rules_for_operators():
    x = torch.randn(2, 6, 5, requires_grad=True)
    weight = torch.randn(2, 3, 4, 5, requires_grad=True)
    torch.library.opcheck(dynamic_conv, (x, weight, 2))


def viterbi_by_brute_force(emissions, targets, E1, E2, length):
    """The best score over all paths of the first ``length`` positions, and its tokens; float64."""
    best, best_path = -float("inf"), None
    for path in itertools.product(range(emissions.shape[1]), repeat=length):
        score = sum(emissions[t, path[t]].item() for t in range(length))
        for t in range(1, length):
            source, target = targets[t - 1, path[t - 1]], targets[t, path[t]]
            score += (E1[source].double() @ E2[target].double()).item()
        if score > best:
            best, best_path = score, path
    return best, [targets[t, k].item() for t, k in enumerate(best_path)]


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 5),
    beam=st.integers(1, 4),
    padding=st.integers(0, 3),
    seed=st.integers(0, 999),
)
def test_crf_decode_finds_the_best_path(length, beam, padding, seed):
    torch.manual_seed(seed)
    emissions = torch.randn(2, length + padding, beam)
    targets = torch.stack([torch.randperm(11)[:beam] for _ in range(2 * (length + padding))])
    targets = targets.view(2, length + padding, beam).int()
    E1, E2 = torch.randn(2, 11, 3)
    mask = (torch.arange(length + padding) < length).int().expand(2, -1)
    tokens, scores = crf_decode(emissions, targets, E1, E2, mask)
    for row in range(2):
        best, path = viterbi_by_brute_force(emissions[row].double(), targets[row], E1, E2, length)
        assert tokens[row, :length].tolist() == path
        assert scores[row].sum().item() == pytest.approx(best, abs=1e-4)


def test_crf_decode_follows_pytorchs_rules_for_operators():
    arguments = (
        torch.randn(2, 4, 3),
        torch.randint(7, (2, 4, 3), dtype=torch.int32),
        torch.randn(7, 2),
        torch.randn(7, 2),
        torch.ones(2, 4, dtype=torch.int32),
    )
    torch.library.opcheck(crf_decode, arguments)


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 5),
    beam=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_crf_normaliser_sums_over_all_paths(length, beam, seed):
    generator = torch.Generator().manual_seed(seed)
    emissions = torch.randn(2, length, beam, dtype=torch.float64, generator=generator)
    steps = torch.randn(2, length - 1, beam, beam, dtype=torch.float64, generator=generator)
    mask = torch.randint(2, (2, length), dtype=torch.int32, generator=generator)
    totals, prefixes = crf_normaliser(emissions, steps, mask)
    torch.testing.assert_close(prefixes[:, -1].logsumexp(1), totals)
    for row in range(2):
        real = [0, *(t for t in range(1, length) if mask[row, t])]
        scores = []
        for path in itertools.product(range(beam), repeat=len(real)):
            score = emissions[row, 0, path[0]]
            for t, i, j in zip(real[1:], path, path[1:], strict=False):
                score = score + steps[row, t - 1, i, j] + emissions[row, t, j]
            scores.append(score)
        torch.testing.assert_close(totals[row], torch.stack(scores).logsumexp(0))


def test_crf_normaliser_gradients():
    torch.manual_seed(0)
    emissions = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    steps = torch.randn(3, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 1, 1]], dtype=torch.int32)
    assert torch.autograd.gradcheck(lambda e, s: crf_normaliser(e, s, mask)[0], (emissions, steps))


def test_crf_normaliser_follows_pytorchs_rules_for_operators():
    emissions = torch.randn(2, 4, 3, requires_grad=True)
    steps = torch.randn(2, 3, 3, 3, requires_grad=True)
    torch.library.opcheck(crf_normaliser, (emissions, steps, torch.ones(2, 4, dtype=torch.int32)))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"emissions": torch.zeros(2, 3)}, "emissions must be"),
        ({"emissions": torch.zeros(2, 0, 3)}, "above 0"),
        ({"transitions": torch.zeros(2, 4, 3, 3)}, "shapes"),
        ({"transitions": torch.zeros(2, 3, 3, 3).half()}, "dtype"),
        ({"mask": torch.ones(2, 3).int()}, "shapes"),
        ({"mask": torch.ones(2, 4)}, "int32"),
    ],
)
def test_crf_normaliser_refuses(change, word):
    arguments = {
        "emissions": torch.zeros(2, 4, 3),
        "transitions": torch.zeros(2, 3, 3, 3),
        "mask": torch.ones(2, 4).int(),
    }
    with pytest.raises(ValueError, match=word):
        crf_normaliser(**(arguments | change))


@pytest.mark.parametrize(
    ("x", "weight", "padding_l", "word"),
    [
        (torch.ones(2, 6), torch.ones(2, 3, 3, 5), 1, "dimensions"),
        (torch.ones(2, 6, 5), torch.ones(2, 3, 3, 5).double(), 1, "dtype"),
        (torch.ones(2, 6, 5), torch.ones(2, 4, 3, 5), 1, "heads"),
        (torch.ones(2, 6, 5), torch.ones(2, 3, 0, 5), 0, "K=0"),
        (torch.ones(2, 6, 5), torch.ones(2, 3, 3, 4), 1, "length"),
        (torch.ones(2, 6, 5), torch.ones(2, 3, 3, 5), 3, "padding_l"),
    ],
)
def test_dynamic_conv_refuses(x, weight, padding_l, word):
    with pytest.raises(ValueError, match=word):
        dynamic_conv(x, weight, padding_l)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"mask": torch.ones(2, 4)}, "int32"),
        ({"targets": torch.zeros(2, 4, 3).long()}, "int32"),
        ({"targets": torch.zeros(2, 4, 2).int()}, "shapes"),
        ({"E2": torch.ones(7, 3)}, "E1 and E2"),
        ({"E1": torch.ones(7, 2).half()}, "dtype"),
    ],
)
def test_crf_decode_refuses(change, word):
    arguments = {
        "emissions": torch.zeros(2, 4, 3),
        "targets": torch.zeros(2, 4, 3).int(),
        "E1": torch.ones(7, 2),
        "E2": torch.ones(7, 2),
        "mask": torch.ones(2, 4).int(),
    }
    with pytest.raises(ValueError, match=word):
        crf_decode(**(arguments | change))


@pytest.mark.parametrize(
    ("batch", "length", "channels", "heads", "kernel", "padding_l"),
    [(2, 5, 8, 4, 3, 1), (3, 9, 8, 2, 31, 30), (1, 1, 4, 1, 7, 6), (2, 40, 16, 4, 15, 7)],
)
def test_banded_conv_is_dynamic_conv_with_its_gradients(
    batch, length, channels, heads, kernel, padding_l
):
    from train_model.ops.dynamic_conv import banded_conv

    torch.manual_seed(0)
    x = torch.randn(batch, length, channels, dtype=torch.double, requires_grad=True)
    taps = torch.randn(batch, length, heads, kernel, dtype=torch.double, requires_grad=True)
    ours = banded_conv(x, taps, padding_l)
    theirs = dynamic_conv(x.transpose(1, 2), taps.permute(0, 2, 3, 1), padding_l).transpose(1, 2)
    torch.testing.assert_close(ours, theirs)
    gradient = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, (x, taps), gradient),
        torch.autograd.grad(theirs, (x, taps), gradient),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
