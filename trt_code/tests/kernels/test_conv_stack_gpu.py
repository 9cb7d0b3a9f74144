"""All layers in one kernel against the same layers written out in PyTorch, in float64.

An error may be twice what PyTorch's own operators make of the same inputs in the same dtype.
"""

import pytest
import torch
from torch.nn import functional as F

from train_model.ops import load_cuda_library
from trt_code.cuda_graph.packing import LayerWeights
from trt_code.cuda_graph.stack import ConvStack, StackLayer
from trt_code.tests.kernels import reference_ops
from trt_code.tests.kernels.reference_ops import relative_error

on_hopper = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() != (9, 0),
    reason="the kernel is for Hopper",
)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
    pytest.mark.skipif(not load_cuda_library(), reason="the CUDA operators are not built"),
    on_hopper,
]
EPS = 1e-5


def layer(generator, dtype, heads, ffn, kernel_size, padding_l, attends):
    width = 64 * heads

    def matrix(rows, columns):
        values = torch.randn(rows, columns, device="cuda", generator=generator)
        return (values * columns**-0.5).to(dtype)

    def vector(count, scale=0.3, around=0.0):
        return torch.randn(count, device="cuda", generator=generator) * scale + around

    def norm():
        return [vector(width, 0.2, 1.0), vector(width)]

    rows = (2 * width, 2 * width, heads * kernel_size, width)
    weights = [matrix(n, width) for n in rows] + [matrix(ffn, width), matrix(width, ffn)]
    constants = [vector(2 * width), vector(2 * width), vector(width), *norm()]
    if attends:
        weights += [matrix(width, width), matrix(width, width)]
        constants += [vector(width), vector(width), *norm()]
    constants += [vector(ffn), vector(width), *norm()]
    constants = [x.to(dtype).float() for x in constants]
    return StackLayer(LayerWeights(*weights), constants, kernel_size, padding_l)


def reference(layers, heads, mask_conv, x, mask, keys_values, source_mask, positions, dtype):
    """The layers one operator at a time, in ``dtype``."""
    as_dtype = lambda x: None if x is None else x.to(dtype)  # noqa: E731
    x, keys_values, positions = map(as_dtype, (x, keys_values, positions))

    def norm(x, scale, shift):
        return F.layer_norm(x, scale.shape, scale.to(dtype), shift.to(dtype), EPS)

    for i, each in enumerate(layers):
        weights, rest = each.weights, iter(each.constants)

        def linear(x, weight, bias=None):
            return F.linear(x, weight.to(dtype), None if bias is None else bias.to(dtype))

        h = reference_ops.glu_mask(linear(x, weights.linear1, next(rest)), mask)
        g = F.glu(linear(h, weights.conv_linear1, next(rest)), -1)
        logits = linear(g, weights.taps)
        keep = mask if mask_conv else None
        shape = heads, each.kernel_size, each.padding_l
        y = reference_ops.dynamic_conv_fused(g, logits, keep, *shape)
        x = norm(x + linear(y, weights.linear2, next(rest)), next(rest), next(rest))
        if keys_values is not None:
            query_bias, out_bias = next(rest), next(rest)
            query = linear(x, weights.query, query_bias)
            found = reference_ops.attention(query, keys_values, source_mask, i, heads)
            x = norm(x + linear(found, weights.out, out_bias), next(rest), next(rest))
        inner = linear(x, weights.fc1, next(rest)).relu()
        x = norm(x + linear(inner, weights.fc2, next(rest)), next(rest), next(rest))
        if positions is not None and i + 1 < len(layers):
            x = x + positions
    return x


def make(dtype, batch, length, heads, ffn, source=0, kernel_sizes=(3, 15), masked=False):
    """Random layers and what they get: the stack, its layers, its arguments."""
    generator = torch.Generator("cuda").manual_seed(0)
    width = 64 * heads

    def tensor(*shape):
        return torch.randn(shape, device="cuda", generator=generator).to(dtype)

    paddings = [k - 1 if source else k // 2 for k in kernel_sizes]
    layers = [
        layer(generator, dtype, heads, ffn, k, padding, source > 0)
        for k, padding in zip(kernel_sizes, paddings, strict=True)
    ]

    def mask_of(rows, columns):
        real = torch.tensor([max(0, columns - 3 * (i % 7)) for i in range(rows)])
        return (torch.arange(columns) < real[:, None]).int().cuda()

    x = tensor(batch, length, width)
    keys_values = tensor(batch, source, 2 * len(layers) * width) if source else None
    source_mask = mask_of(batch, source) if source else None
    positions = tensor(length, width) if source else None
    mask = mask_of(batch, length) if masked else None

    stack = ConvStack(layers, heads, EPS, mask_conv=masked)
    assert stack.fits(x, keys_values)
    return stack, layers, (x, mask, keys_values, source_mask, positions)


def check(dtype, batch, length, heads, ffn, source=0, kernel_sizes=(3, 15), masked=False):
    made = make(dtype, batch, length, heads, ffn, source, kernel_sizes, masked)
    stack, layers, arguments = made
    actual = stack(*arguments)
    assert actual.isfinite().all()
    exact = reference(layers, heads, masked, *arguments, torch.float64)
    native = reference(layers, heads, masked, *arguments, dtype)
    print(
        f"{dtype} {batch}x{length} heads {heads} source {source}:"
        f" error {relative_error(actual, exact):.2e}, PyTorch's {relative_error(native, exact):.2e}"
    )
    assert relative_error(actual, exact) <= 2 * relative_error(native, exact)
    for _ in range(3):
        assert stack(*arguments).equal(actual)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = stack(*arguments)
    for _ in range(3):
        captured.zero_()
        graph.replay()
        assert captured.equal(actual)


ENCODERS = [
    (1, 1, 2),
    (1, 32, 8),
    (3, 17, 4),
    (16, 32, 8),
    (5, 64, 8),
    (15, 64, 8),
    (16, 64, 8),  # more groups than an H100 has clusters
    (22, 64, 6),
    (33, 40, 4),
    (32, 31, 8),
    (40, 8, 2),
    (2, 40, 6),
]
DECODERS = [
    (1, 2, 2, 1),
    (1, 64, 8, 32),
    (3, 17, 4, 24),
    (16, 32, 8, 32),
    (15, 64, 8, 64),
    (16, 64, 8, 32),
    (16, 33, 8, 3),
    (22, 33, 6, 20),
    (31, 32, 8, 32),
    (30, 64, 4, 64),
    (9, 16, 8, 8),
    (7, 16, 2, 11),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("batch", "length", "heads"), ENCODERS)
def test_encoder(dtype, batch, length, heads, masked):
    check(dtype, batch, length, heads, 256 * heads, masked=masked)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("batch", "length", "heads", "source"), DECODERS)
def test_decoder(dtype, batch, length, heads, source):
    check(dtype, batch, length, heads, 128 * heads, source, kernel_sizes=(1, 4, 16))


def test_six_layers_of_the_full_size():
    check(torch.float16, 16, 32, 8, 2048, 32, kernel_sizes=(3, 5, 5, 7, 15, 15))


# Clusters of 32 and of 64 positions, and groups without clusters.
WAYS = [(3, 32, 0), (9, 32, 32), (16, 32, 0), (16, 32, 32), (16, 64, 0), (16, 64, 32)]


@pytest.mark.parametrize(("batch", "length", "source"), WAYS)
def test_replays_are_alike_beside_other_work(batch, length, source):
    stack, _, arguments = make(torch.float16, batch, length, 8, 2048, source, (3, 5, 7, 15))
    expected = stack(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = stack(*arguments)
    other, matrix = torch.cuda.Stream(), torch.randn(2048, 2048, device="cuda")
    for i in range(200):
        captured.zero_()
        if i % 2:
            with torch.cuda.stream(other):
                torch.mm(matrix, matrix)
        graph.replay()
        assert captured.equal(expected)


@pytest.mark.parametrize(("batch", "length", "source"), WAYS)
def test_what_starts_early_before_and_behind_it_sees_all(batch, length, source):
    stack, _, (x, *others) = make(torch.float16, batch, length, 8, 1024, source)
    scale, shift = torch.ones(512, device="cuda"), torch.zeros(512, device="cuda")
    steps = [
        lambda y: stack(y, *others),
        lambda y: torch.ops.lite.layer_norm(y, x, scale, shift, EPS),
        lambda y: stack(y, *others),
    ] * 3

    def run(after_each):
        y = x
        for step in steps:
            y = step(y)
            after_each()
        return y

    expected = run(torch.cuda.synchronize)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(lambda: None)
    for _ in range(50):
        captured.zero_()
        graph.replay()
        assert captured.equal(expected)


def test_what_does_not_fit_is_refused():
    x = torch.zeros(1, 65, 128, device="cuda", dtype=torch.float16)
    generator = torch.Generator("cuda").manual_seed(0)
    layers = [layer(generator, torch.float16, 2, 256, 3, 1, False)]
    stack = ConvStack(layers, 2, EPS, mask_conv=False)
    assert not stack.fits(x)
    assert stack.fits(x[:, :64].contiguous())
    groups = torch.cuda.get_device_properties(0).multi_processor_count // 2
    assert stack.fits(x.new_zeros(groups, 64, 128))
    assert not stack.fits(x.new_zeros(groups + 1, 64, 128))
    with pytest.raises(RuntimeError, match="at most 64"):
        stack(x)
    with pytest.raises(RuntimeError, match="x must be"):
        stack(x[:, :8, :64].contiguous())
