"""The CUDA kernels, through their PyTorch operators, against float64 (``make test-gpu``).

One test body for every operator, dtype and shape: the error against a float64 reference is at most twice
that of PyTorch's own form in the same dtype, plus the rounding that the dtype cannot avoid; outputs
are poisoned first; runs and graph replays agree bit for bit.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from train_model.ops import cuda_library_path, load_cuda_library

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
    pytest.mark.skipif(
        torch.cuda.is_available() and not load_cuda_library(),
        reason=f"{cuda_library_path()} is missing: make torch-ops",
    ),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
lite = torch.ops.lite
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float16", "bfloat16"])


def examples(count: int) -> settings:
    """The settings of a property test: the same ``count`` examples in every run."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of one case; an operator reads those that it needs.

    ``shift`` is the distance in elements of every tensor's first element from its allocation's start.
    """

    batch: int = 2
    length: int = 9
    heads: int = 2
    head_channels: int = 8
    kernel: int = 3
    padding: int = 1
    mask: bool = True
    extras: bool = True  # LayerNorm's residual
    shift: int = 0

    @property
    def channels(self) -> int:
        return self.heads * self.head_channels


CORNERS = [
    Sizes(1, 1, 1, 1, 1, 0),
    Sizes(1, 1, 1, 1, 1, 0, mask=False, extras=False, shift=1),
    Sizes(16, 64, 8, 64, 15, 14),  # the decoder of the full-size model
    Sizes(16, 32, 8, 64, 15, 7),  # its encoder
    Sizes(3, 64, 8, 64, 31, 15, mask=False),
    Sizes(2, 200, 4, 50, 7, 3),  # Lite Transformer's widths: 200, 240, 408, 496
    Sizes(2, 33, 8, 30, 31, 30, shift=1),
    Sizes(2, 17, 8, 51, 3, 2),
    Sizes(2, 128, 16, 31, 5, 2, extras=False),
    Sizes(1, 130, 1, 7, 255, 254),
    Sizes(1, 300, 1, 64, 255, 0),
    Sizes(1, 96, 2, 136, 255, 127, shift=3),
    Sizes(1, 8, 1, 1031, 3, 1),  # odd, and wider than a warp of LayerNorm holds
    Sizes(2, 3, 4, 1000, 2, 1, shift=2),
    Sizes(70, 65, 3, 24, 4, 3),
    Sizes(1, 256, 64, 1, 9, 4),
    Sizes(130, 40, 1, 200, 6, 0),
]


@st.composite
def shapes(draw: st.DrawFn) -> Sizes:
    kernel = draw(st.integers(1, 40) | st.integers(41, 255))
    return Sizes(
        batch=draw(st.integers(1, 5)),
        length=draw(st.integers(1, 140)),
        heads=draw(st.sampled_from([1, 2, 3, 8])),
        head_channels=draw(st.integers(1, 80) | st.sampled_from([8, 16, 64, 128])),
        kernel=kernel,
        padding=draw(st.integers(0, kernel - 1)),
        mask=draw(st.booleans()),
        extras=draw(st.booleans()),
        shift=draw(st.integers(0, 9)),
    )


def random(*sizes: int, dtype: torch.dtype, shift: int, scale: float = 1.0) -> Tensor:
    """Normal values, dense, starting ``shift`` elements after an aligned address."""
    count = int(torch.Size(sizes).numel())
    storage = torch.randn(count + shift, device="cuda", dtype=torch.float32).mul_(scale).to(dtype)
    return storage[shift:].view(sizes)


def random_mask(shape: Sizes) -> Tensor | None:
    if not shape.mask:
        return None
    return (torch.rand(shape.batch, shape.length, device="cuda") < 0.8).int()


# ---- operators: inputs, the kernel, and the same in PyTorch for any dtype ----------------------


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator under test.

    Attributes:
        inputs: its tensors for a shape and a dtype.
        kernel: runs it; gives its outputs.
        plain: the same in PyTorch, in the dtype of the tensors it is given.
    """

    inputs: Callable[[Sizes, torch.dtype], list[Tensor | None]]
    kernel: Callable[..., tuple[Tensor, ...]]
    plain: Callable[..., tuple[Tensor, ...]]


def windows(x: Tensor, shape: Sizes) -> Tensor:
    """Return each position's window of inputs, [B, C, T, K]."""
    return F.pad(x, (shape.padding, shape.kernel - 1 - shape.padding)).unfold(2, shape.kernel, 1)


def plain_conv(shape: Sizes, x: Tensor, weight: Tensor) -> tuple[Tensor]:
    split = windows(x, shape).unflatten(1, (shape.heads, -1))
    return ((split * weight.transpose(2, 3)[:, :, None]).sum(-1).flatten(1, 2),)


def plain_backward(shape: Sizes, grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    return torch.autograd.grad(plain_conv(shape, x, weight)[0], (x, weight), grad)


def plain_fused(shape: Sizes, x: Tensor, logits: Tensor, mask: Tensor | None) -> tuple[Tensor]:
    x = x if mask is None else x * mask[:, :, None]
    weight = logits.unflatten(2, (shape.heads, -1)).softmax(-1).permute(0, 2, 3, 1)
    return (plain_conv(shape, x.transpose(1, 2), weight)[0].transpose(1, 2),)


def plain_glu(shape: Sizes, x: Tensor, mask: Tensor | None) -> tuple[Tensor]:
    y = F.glu(x, -1)
    return (y if mask is None else y * mask[:, :, None],)


def plain_norm(
    shape: Sizes,
    x: Tensor,
    residual: Tensor | None,
    scale: Tensor,
    shift: Tensor,
) -> tuple[Tensor]:
    x = x if residual is None else x + residual
    return (F.layer_norm(x, x.shape[-1:], scale.to(x.dtype), shift.to(x.dtype), 1e-5),)


def norm_inputs(shape: Sizes, dtype: torch.dtype) -> list[Tensor | None]:
    sizes, width = (shape.batch, shape.length, shape.channels), shape.channels
    return [
        random(*sizes, dtype=dtype, shift=shape.shift),
        random(*sizes, dtype=dtype, shift=shape.shift) if shape.extras else None,
        random(width, dtype=torch.float32, shift=shape.shift),
        random(width, dtype=torch.float32, shift=shape.shift),
    ]


OPERATORS = {
    "dynamic_conv": Operator(
        lambda s, dtype: [
            random(s.batch, s.channels, s.length, dtype=dtype, shift=s.shift),
            random(s.batch, s.heads, s.kernel, s.length, dtype=dtype, shift=s.shift),
        ],
        lambda s, x, weight: (lite.dynamic_conv(x, weight, s.padding),),
        plain_conv,
    ),
    "dynamic_conv_backward": Operator(
        lambda s, dtype: [
            random(s.batch, s.channels, s.length, dtype=dtype, shift=s.shift),
            random(s.batch, s.channels, s.length, dtype=dtype, shift=s.shift),
            random(s.batch, s.heads, s.kernel, s.length, dtype=dtype, shift=s.shift),
        ],
        lambda s, grad, x, weight: lite.dynamic_conv_backward(grad, x, weight, s.padding),
        plain_backward,
    ),
    "dynamic_conv_fused": Operator(
        lambda s, dtype: [
            random(s.batch, s.length, s.channels, dtype=dtype, shift=s.shift),
            random(s.batch, s.length, s.heads * s.kernel, dtype=dtype, shift=s.shift, scale=3),
            random_mask(s),
        ],
        lambda s, x, logits, mask: (
            lite.dynamic_conv_fused(x, logits, mask, s.heads, s.kernel, s.padding),
        ),
        plain_fused,
    ),
    "glu_mask": Operator(
        lambda s, dtype: [
            random(s.batch, s.length, 2 * s.channels, dtype=dtype, shift=s.shift, scale=4),
            random_mask(s),
        ],
        lambda s, x, mask: (lite.glu_mask(x, mask),),
        plain_glu,
    ),
    "layer_norm": Operator(
        norm_inputs,
        lambda s, *tensors: (lite.layer_norm(*tensors, 1e-5),),
        plain_norm,
    ),
}


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Fill every tensor allocated inside with NaN or the largest integer."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = before


def run_twice_and_replay(call: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Return the outputs of a call; a second call and a graph's replay must give the same bits."""
    with poisoned():
        first, second = call(), call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for output in captured:
        output.view(torch.uint8).fill_(0xFF)
    graph.replay()
    for expected, again, replayed in zip(first, second, captured, strict=True):
        assert torch.equal(expected.view(torch.uint8), again.view(torch.uint8))
        assert torch.equal(expected.view(torch.uint8), replayed.view(torch.uint8))
    return first


def assert_as_exact_as(output: Tensor, plain: Tensor, reference: Tensor) -> None:
    """Assert an error of at most twice that of ``plain``, plus the rounding of the largest result."""
    assert output.dtype == plain.dtype
    assert output.shape == reference.shape
    error = (output.double() - reference).abs().max()
    allowed = (plain.double() - reference).abs().max()
    unavoidable = torch.finfo(output.dtype).eps / 2 * reference.abs().max()
    assert error <= 2 * allowed + unavoidable, f"{error:.3e} against PyTorch's {allowed:.3e}"


def check(name: str, shape: Sizes, dtype: torch.dtype) -> None:
    torch.manual_seed(shape.length)
    operator = OPERATORS[name]
    tensors = operator.inputs(shape, dtype)
    exact = [t.double() if t is not None and t.is_floating_point() else t for t in tensors]
    outputs = run_twice_and_replay(lambda: operator.kernel(shape, *tensors))
    plain, reference = operator.plain(shape, *tensors), operator.plain(shape, *exact)
    for output, own, expected in zip(outputs, plain, reference, strict=True):
        assert_as_exact_as(output, own, expected)


@dtypes
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("shape", CORNERS, ids=str)
def test_corner(name: str, shape: Sizes, dtype: torch.dtype) -> None:
    check(name, shape, dtype)


@dtypes
@pytest.mark.parametrize("name", OPERATORS)
def test_any_shape(name: str, dtype: torch.dtype) -> None:
    @examples(20)
    @given(shapes())
    def every(shape: Sizes) -> None:
        check(name, shape, dtype)

    every()


@dtypes
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("length", [7, 40, 200])
def test_a_row_does_not_depend_on_its_neighbours(
    name: str, length: int, dtype: torch.dtype
) -> None:
    """A sentence gives the same bits in a batch and in a batch of one.

    The fused convolution in FP32 may group its sums differently, since a large grid has other tiles.
    """
    torch.manual_seed(3)
    shape = Sizes(40, length, 8, 64, 15, 7)
    operator = OPERATORS[name]
    tensors = operator.inputs(shape, dtype)
    whole = operator.kernel(shape, *tensors)
    per_row = [t is not None and t.dim() > 1 for t in tensors]
    for row in (0, 17, 39):
        own = [t[row : row + 1] if each else t for t, each in zip(tensors, per_row, strict=True)]
        for alone, output in zip(operator.kernel(shape, *own), whole, strict=True):
            if name == "dynamic_conv_fused" and dtype == torch.float32:
                torch.testing.assert_close(alone[0], output[row], rtol=0, atol=1e-5)
            else:
                assert torch.equal(alone[0], output[row])


@dtypes
@pytest.mark.parametrize(
    ("mean", "deviation"), [(1e4, 10.0), (1e4, 1.0), (-3e4, 100.0), (0.0, 1e-4), (1e4, 0.0)]
)
@pytest.mark.parametrize("width", [512, 511, 2048, 1500])
def test_layer_norm_far_from_zero(
    dtype: torch.dtype, mean: float, deviation: float, width: int
) -> None:
    torch.manual_seed(1)
    x = (torch.randn(64, width, device="cuda") * deviation + mean).to(dtype)
    scale, shift = torch.rand(2, width, device="cuda").unbind()
    (output,) = run_twice_and_replay(lambda: (lite.layer_norm(x, None, scale, shift, 1e-5),))
    plain = F.layer_norm(x, (width,), scale.to(dtype), shift.to(dtype), 1e-5)
    exact = F.layer_norm(x.double(), (width,), scale.double(), shift.double(), 1e-5)
    assert_as_exact_as(output, plain, exact)


@dtypes
@pytest.mark.parametrize(
    ("length", "kernel", "padding"), [(40, 3, 1), (40, 6, 5), (37, 15, 7), (200, 40, 0)]
)
def test_a_window_does_not_see_beyond_itself(
    length: int, kernel: int, padding: int, dtype: torch.dtype
) -> None:
    """An infinity next to a window must not turn the window's sum into NaN."""
    x = torch.ones(1, 8, length, device="cuda", dtype=dtype)
    x[:, :, 20] = torch.inf
    weight = torch.full((1, 1, kernel, length), 1 / kernel, device="cuda", dtype=dtype)
    logits = torch.zeros(1, length, kernel, device="cuda", dtype=dtype)
    y = lite.dynamic_conv(x, weight, padding)
    fused = lite.dynamic_conv_fused(
        x.transpose(1, 2).contiguous(), logits, None, 1, kernel, padding
    )
    reached = torch.zeros(length, dtype=torch.bool, device="cuda")
    reached[max(0, 20 - (kernel - 1 - padding)) : 20 + padding + 1] = True
    for result in (y, fused.transpose(1, 2)):
        assert result.isinf().equal(reached.expand_as(result))
        assert not result.isnan().any()


# ---- top_k --------------------------------------------------------------------------------------


def check_top_k(x: Tensor, k: int) -> None:
    values, indices = run_twice_and_replay(lambda: lite.top_k(x, k))
    # A stable comparison sort: NaN first, of equal values the lowest index first.
    order = torch.sort(x.cpu().double(), dim=-1, descending=True, stable=True).indices[..., :k]
    assert torch.equal(indices.cpu().long(), order)
    expected = x.cpu().gather(-1, order)
    same = values.cpu() == expected
    assert torch.equal(same | (values.cpu().isnan() & expected.isnan()), torch.ones_like(same))


@dtypes
@pytest.mark.parametrize(
    ("rows", "width", "k", "shift"),
    [
        (1, 1, 1, 0),
        (1024, 32768, 32, 0),
        (64, 32768, 64, 0),
        (33, 32769, 32, 0),
        (7, 250, 32, 0),
        (7, 251, 64, 3),
        (5, 64, 64, 1),
        (3, 100_003, 40, 5),
        (9, 8192, 7, 0),
        (9, 8200, 1, 0),
        (4, 2047, 63, 2),
    ],
)
def test_top_k(dtype: torch.dtype, rows: int, width: int, k: int, shift: int) -> None:
    torch.manual_seed(width)
    check_top_k(random(rows, width, dtype=dtype, shift=shift, scale=3), k)


@dtypes
@examples(30)
@given(st.integers(1, 5), st.integers(1, 20_000), st.integers(1, 64), st.integers(0, 9), st.data())
def test_top_k_any_shape(dtype, rows, width, k, shift, data) -> None:
    torch.manual_seed(width)
    levels = data.draw(st.sampled_from([1, 2, 5, 1000]))  # few distinct values, so many ties
    x = random(rows, width, dtype=dtype, shift=shift)
    check_top_k((x * levels).round() / levels, min(k, width))


@dtypes
@pytest.mark.parametrize("width", [300, 32768, 40_001])
def test_top_k_awkward_rows(dtype: torch.dtype, width: int) -> None:
    """Constant, sorted, infinite, signed-zero and NaN rows: the order is PyTorch's in each."""
    torch.manual_seed(2)
    ramp = torch.linspace(-50, 50, width)
    zeros = torch.zeros(width)
    zeros[::3] = -0.0
    some_nan = torch.randn(width)
    some_nan[torch.randperm(width)[:20]] = torch.nan
    rows = [
        torch.zeros(width),
        torch.full((width,), -torch.inf),
        torch.full((width,), torch.nan),
        ramp,
        ramp.flip(0),
        -torch.arange(width).float().log1p(),
        zeros,
        some_nan,
        torch.randn(width).clamp(max=1.0),
        torch.where(torch.rand(width) < 0.01, torch.inf, -torch.inf),
        torch.randint(0, 2, (width,)).float(),
    ]
    check_top_k(torch.stack(rows).to("cuda", dtype), 32)


# ---- crf_decode ---------------------------------------------------------------------------------


def crf_inputs(
    batch: int, length: int, beam: int, rank: int, dtype: torch.dtype, integers: bool, shift: int
) -> list[Tensor]:
    """Emissions, distinct targets per position, embeddings and a mask that keeps position 0."""
    vocab = 97

    def values(*sizes: int) -> Tensor:
        if integers:  # sums are exact in FP32, and ties are many
            return torch.randint(-2, 3, sizes, device="cuda").to(dtype)
        return random(*sizes, dtype=dtype, shift=shift)

    emissions = values(batch, length, beam).sort(-1, descending=True).values
    targets = torch.rand(batch, length, vocab, device="cuda").argsort(-1)[..., :beam].int()
    mask = (torch.rand(batch, length, device="cuda") < 0.85).int()
    mask[:, 0] = 1
    return [emissions, targets.contiguous(), values(vocab, rank), values(vocab, rank), mask]


def crf_reference(
    emissions: Tensor, targets: Tensor, E1: Tensor, E2: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """fairseq's DynamicCRF in float64 on the CPU, one sentence and one step at a time.

    Gives tokens, scores, and the best score of each sentence.
    """
    emissions, E1, E2 = (t.cpu().double() for t in (emissions, E1, E2))
    targets, mask = targets.cpu().long(), mask.cpu()
    all_tokens, all_scores, all_best = [], [], []
    for b in range(len(targets)):
        score, prefixes, pointers = emissions[b, 0], [], []
        for t in range(1, targets.shape[1]):
            prefixes.append(score)
            if mask[b, t] == 0:
                pointers.append(list(range(len(score))))
                continue
            ways = score[:, None] + E1[targets[b, t - 1]] @ E2[targets[b, t]].T
            pointers.append([int((column == column.max()).nonzero()[0]) for column in ways.T])
            score = ways.max(0).values + emissions[b, t]
        slot = int((score == score.max()).nonzero()[0])
        slots, totals = [slot], [score[slot]]
        for back, prefix in zip(reversed(pointers), reversed(prefixes), strict=True):
            totals.insert(0, prefix[slot])
            slot = back[slot]
            slots.insert(0, slot)
        totals = torch.stack(totals)
        all_tokens.append(targets[b].gather(1, torch.tensor(slots)[:, None])[:, 0])
        all_scores.append(torch.diff(totals, prepend=totals.new_zeros(1)))
        all_best.append(score.max())
    return torch.stack(all_tokens), torch.stack(all_scores), torch.stack(all_best)


CRF_SIZES = [
    (1, 1, 1, 1),
    (2, 2, 2, 3),
    (16, 64, 32, 32),
    (3, 9, 33, 32),
    (2, 40, 64, 16),
    (3, 17, 5, 7),
    (2, 65, 31, 40),
    (1, 512, 64, 8),
    (1, 512, 32, 33),
]


@dtypes
@pytest.mark.parametrize("size", CRF_SIZES, ids=str)
def test_crf_decode_exactly_on_integers(size: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    tensors = crf_inputs(*size, dtype, integers=True, shift=0)
    tokens, scores = run_twice_and_replay(lambda: lite.crf_decode(*tensors))
    expected_tokens, expected_scores, _ = crf_reference(*tensors)
    assert torch.equal(tokens.cpu().long(), expected_tokens)
    assert torch.equal(scores.cpu().double(), expected_scores)


@dtypes
@pytest.mark.parametrize("size", CRF_SIZES, ids=str)
@pytest.mark.parametrize("shift", [0, 1])
def test_crf_decode(size: tuple[int, ...], shift: int, dtype: torch.dtype) -> None:
    """The path is the best one up to FP32 rounding, and its score is the best score."""
    torch.manual_seed(6)
    tensors = crf_inputs(*size, dtype, integers=False, shift=shift)
    tokens, scores = run_twice_and_replay(lambda: lite.crf_decode(*tensors))
    expected_tokens, expected_scores, best = crf_reference(*tensors)
    tolerance = 1e-7 * size[1] * best.abs().clamp(min=1)
    assert (scores.cpu().double().sum(1) - best).abs().le(tolerance).all()
    # Different tokens must form a path of the same score up to rounding, which is rare with random values.
    same = (tokens.cpu().long() == expected_tokens).all(1)
    assert same.float().mean() >= 0.9
    difference = (scores.cpu().double() - expected_scores)[same].abs().max()
    assert difference <= tolerance.max()


@dtypes
@examples(20)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 64), st.integers(1, 70))
def test_crf_decode_any_shape(dtype, batch, length, beam, rank) -> None:
    torch.manual_seed(7)
    tensors = crf_inputs(batch, length, beam, rank, dtype, integers=True, shift=0)
    tokens, scores = run_twice_and_replay(lambda: lite.crf_decode(*tensors))
    expected_tokens, expected_scores, _ = crf_reference(*tensors)
    assert torch.equal(tokens.cpu().long(), expected_tokens)
    assert torch.equal(scores.cpu().double(), expected_scores)


# ---- crf_normaliser -----------------------------------------------------------------------------


def check_crf_normaliser(batch: int, length: int, beam: int, shift: int, dtype) -> None:
    torch.manual_seed(length)
    inputs = [
        random(batch, length, beam, dtype=dtype, shift=shift),
        random(batch, length - 1, beam, beam, dtype=dtype, shift=shift),
    ]
    mask = (torch.rand(batch, length, device="cuda") < 0.85).int()
    grad = torch.randn(batch, device="cuda")
    total, prefixes = run_twice_and_replay(lambda: lite.crf_normaliser(*inputs, mask))
    gradients = run_twice_and_replay(
        lambda: lite.crf_normaliser_backward(grad, *inputs, mask, total, prefixes)
    )
    exact = [tensor.cpu().double().requires_grad_() for tensor in inputs]
    expected, expected_prefixes = lite.crf_normaliser(*exact, mask.cpu())
    torch.testing.assert_close(total.cpu().double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prefixes.cpu().double(), expected_prefixes, rtol=1e-5, atol=1e-5)
    expected = torch.autograd.grad(expected, exact, grad.cpu().double())
    tolerance = 1e-5 + 1e-6 * length + torch.finfo(dtype).eps
    for own, right in zip(gradients, expected, strict=True):
        torch.testing.assert_close(
            own.cpu().double(), right, rtol=tolerance, atol=tolerance * grad.abs().max().item()
        )


@dtypes
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(
    ("batch", "length", "beam"),
    [(1, 1, 1), (3, 1, 5), (70, 16, 32), (4, 40, 64), (2, 9, 33), (2, 254, 32), (3, 6, 1)],
)
def test_crf_normaliser(batch: int, length: int, beam: int, shift: int, dtype: torch.dtype) -> None:
    check_crf_normaliser(batch, length, beam, shift, dtype)


@dtypes
@examples(20)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 64))
def test_crf_normaliser_any_shape(dtype, batch, length, beam) -> None:
    check_crf_normaliser(batch, length, beam, 0, dtype)


@dtypes
def test_top_k_and_crf_do_not_depend_on_neighbours(dtype: torch.dtype) -> None:
    torch.manual_seed(8)
    x = random(40, 5000, dtype=dtype, shift=0)
    tensors = crf_inputs(40, 64, 32, 32, dtype, integers=False, shift=0)
    top, best = lite.top_k(x, 32), lite.crf_decode(*tensors)
    for row in (0, 39):
        own = [t[row : row + 1] if i not in (2, 3) else t for i, t in enumerate(tensors)]
        alone = (*lite.top_k(x[row : row + 1], 32), *lite.crf_decode(*own))
        for single, expected in zip(alone, (*top, *best), strict=True):
            assert torch.equal(single[0], expected[row])


# ---- autograd, meta shapes, bad input, large tensors --------------------------------------------


@dtypes
def test_dynamic_conv_trains(dtype: torch.dtype) -> None:
    """autograd goes through the CUDA kernels, and accepts tensors that are not contiguous."""
    shape = Sizes(3, 20, 4, 16, 7, 6)
    x, weight = OPERATORS["dynamic_conv"].inputs(shape, dtype)
    x = x.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    weight = weight.transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    y = lite.dynamic_conv(x, weight, shape.padding)
    grad = torch.randn_like(y).transpose(1, 2).contiguous().transpose(1, 2)
    got = torch.autograd.grad(y, (x, weight), grad)
    plain = plain_backward(shape, grad, x, weight)
    exact = plain_backward(shape, grad.double(), x.double(), weight.double())
    for output, own, expected in zip(got, plain, exact, strict=True):
        assert_as_exact_as(output, own, expected)


def test_shapes_are_known_to_the_compiler() -> None:
    def network(x: Tensor, logits: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
        y = lite.dynamic_conv_fused(lite.glu_mask(x, None), logits, None, 2, 3, 1)
        y = lite.layer_norm(y, lite.glu_mask(x, None), scale, shift, 1e-5)
        return lite.top_k(y, 4)

    tensors = [torch.randn(2, 5, n, device="cuda") for n in (32, 6)]
    tensors += torch.rand(2, 16, device="cuda").unbind()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=True)
    for output, expected in zip(compiled(*tensors), network(*tensors), strict=True):
        assert torch.equal(output, expected)


X, W = (2, 8, 5), (2, 2, 3, 5)
BAD_CALLS = {
    "conv rank": (lambda t: lite.dynamic_conv(t(8, 5), t(*W), 1), "dimensions"),
    "conv dtypes": (lambda t: lite.dynamic_conv(t(*X), t(*W).half(), 1), "dtype|Half"),
    "conv float64": (lambda t: lite.dynamic_conv(t(*X).double(), t(*W).double(), 1), "float32"),
    "conv K = 0": (lambda t: lite.dynamic_conv(t(*X), t(2, 2, 0, 5), 0), "kernel size"),
    "conv K = 256": (lambda t: lite.dynamic_conv(t(*X), t(2, 2, 256, 5), 0), "1..255"),
    "conv padding": (lambda t: lite.dynamic_conv(t(*X), t(*W), 3), "padding_l"),
    "conv negative": (lambda t: lite.dynamic_conv(t(*X), t(*W), -1), "padding_l"),
    "conv heads": (lambda t: lite.dynamic_conv(t(*X), t(2, 3, 3, 5), 1), "multiple of heads"),
    "conv length": (lambda t: lite.dynamic_conv(t(*X), t(2, 2, 3, 6), 1), "weight must be"),
    "conv device": (lambda t: lite.dynamic_conv(t(*X), t(*W).cpu(), 1), "cpu"),
    "fused odd": (
        lambda t: lite.dynamic_conv_fused(t(2, 5, 9), t(2, 5, 6), None, 2, 3, 1),
        "multiple of heads",
    ),
    "fused logits": (
        lambda t: lite.dynamic_conv_fused(t(2, 5, 8), t(2, 5, 7), None, 2, 3, 1),
        "logits must be",
    ),
    "fused mask": (
        lambda t: lite.dynamic_conv_fused(t(2, 5, 8), t(2, 5, 6), t(2, 5), 2, 3, 1),
        "mask",
    ),
    "glu odd": (lambda t: lite.glu_mask(t(2, 5, 9), None), "even"),
    "norm scale": (
        lambda t: lite.layer_norm(t(2, 8), None, t(8).half(), t(8), 1e-5),
        "float32",
    ),
    "norm width": (lambda t: lite.layer_norm(t(2, 8), None, t(7), t(7), 1e-5), "scale"),
    "norm residual": (
        lambda t: lite.layer_norm(t(2, 8), t(3, 8), t(8), t(8), 1e-5),
        "residual must be",
    ),
    "norm eps": (lambda t: lite.layer_norm(t(2, 8), None, t(8), t(8), -1.0), "eps"),
    "top_k 65": (lambda t: lite.top_k(t(2, 100), 65), "1..64"),
    "top_k 0": (lambda t: lite.top_k(t(2, 100), 0), "1..64"),
    "top_k width": (lambda t: lite.top_k(t(2, 8), 9), "width"),
    "crf beam": (
        lambda t: lite.crf_decode(t(1, 3, 65), t(1, 3, 65).int(), t(9, 4), t(9, 4), t(1, 3).int()),
        "beam",
    ),
    "crf length": (
        lambda t: lite.crf_decode(
            t(1, 513, 2), t(1, 513, 2).int(), t(9, 4), t(9, 4), t(1, 513).int()
        ),
        "512",
    ),
    "crf empty": (
        lambda t: lite.crf_decode(t(1, 0, 2), t(1, 0, 2).int(), t(9, 4), t(9, 4), t(1, 0).int()),
        "no positions",
    ),
    "crf targets": (
        lambda t: lite.crf_decode(t(1, 3, 2), t(1, 3, 2).long(), t(9, 4), t(9, 4), t(1, 3).int()),
        "targets",
    ),
    "crf sum beam": (
        lambda t: lite.crf_normaliser(t(1, 3, 65), t(1, 2, 65, 65), t(1, 3).int()),
        "beam",
    ),
    "crf sum transitions": (
        lambda t: lite.crf_normaliser(t(1, 3, 2), t(1, 3, 2, 2), t(1, 3).int()),
        "transitions must be",
    ),
    "crf sum total": (
        lambda t: lite.crf_normaliser_backward(
            t(1), t(1, 3, 2), t(1, 2, 2, 2), t(1, 3).int(), t(2), t(1, 3, 2)
        ),
        "total must be",
    ),
    "crf E2": (
        lambda t: lite.crf_decode(t(1, 3, 2), t(1, 3, 2).int(), t(9, 4), t(9, 5), t(1, 3).int()),
        "E2",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input_is_refused(name: str) -> None:
    call, reason = BAD_CALLS[name]
    with pytest.raises((RuntimeError, ValueError), match=reason):
        call(lambda *sizes: torch.zeros(*sizes, device="cuda"))
    torch.cuda.synchronize()  # reports an error of an asynchronous launch


def test_empty_batches_give_empty_results() -> None:
    zeros = torch.zeros
    assert lite.dynamic_conv(zeros(0, 8, 5).cuda(), zeros(0, 2, 3, 5).cuda(), 1).shape == (0, 8, 5)
    assert lite.glu_mask(zeros(0, 5, 8).cuda(), None).shape == (0, 5, 4)
    assert lite.top_k(zeros(0, 9).cuda(), 3)[1].shape == (0, 3)


@pytest.mark.slow
@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.mem_get_info()[0] < 24 << 30,
    reason="needs 24 GiB of free GPU memory",
)
def test_more_elements_than_32_bits_count() -> None:
    """The last rows of tensors with more than 2^32 bytes and 2^31 elements are right."""
    half = {"device": "cuda", "dtype": torch.float16}
    rows, width = (1 << 21) + 5, 1024
    x = torch.zeros(1, rows, width, **half)
    x[:, -2:] = torch.randn(1, 2, width, **half)
    last = x[:, -2:].clone()
    ones, zeros = torch.ones(width, device="cuda"), torch.zeros(width, device="cuda")
    expected = lite.layer_norm(last, None, ones, zeros, 1e-5)
    assert torch.equal(lite.layer_norm(x, None, ones, zeros, 1e-5)[:, -2:], expected)
    assert torch.equal(lite.glu_mask(x, None)[:, -2:], lite.glu_mask(last, None))
    expected = lite.top_k(last, 8)
    assert all(
        torch.equal(whole[:, -2:], part)
        for whole, part in zip(lite.top_k(x, 8), expected, strict=True)
    )
    batches = rows // 512
    x = x.flatten()[: batches * 512 * width].view(batches, width, 512)
    x[-1].normal_()
    weight = torch.randn(batches, 1, 3, 512, **half)
    expected = lite.dynamic_conv(x[-1:], weight[-1:], 2)
    assert torch.equal(lite.dynamic_conv(x, weight, 2)[-1:], expected)
    x = x.view(batches, 512, width)
    logits = torch.randn(batches, 512, 3, **half)
    expected = lite.dynamic_conv_fused(x[-1:], logits[-1:], None, 1, 3, 2)
    whole = lite.dynamic_conv_fused(x, logits, None, 1, 3, 2)[-1:]
    assert (whole - expected).abs().max() <= 1e-3 * expected.abs().max()
