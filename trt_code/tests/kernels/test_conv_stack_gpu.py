"""All layers in one kernel against the same layers written out in PyTorch, in float64.

The error may be at most twice that of PyTorch's operators for the same inputs and dtype.
"""

import dataclasses

import pytest
import torch

from train_model.ops import load_cuda_library
from trt_code.cuda_graph.stack import ConvStack
from trt_code.tests.kernels.conv_stack_cases import EPS, layer, make, on_hopper, reference
from trt_code.tests.kernels.reference_ops import relative_error

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
    pytest.mark.skipif(not load_cuda_library(), reason="the CUDA operators are not built"),
    on_hopper,
]


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
def test_replays_are_equal_next_to_other_work(batch, length, source):
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
def test_kernels_that_start_early_see_all_results(batch, length, source):
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


@pytest.mark.parametrize("attends", [False, True])
def test_constants_are_checked_against_the_kernels_order(attends):
    generator = torch.Generator("cuda").manual_seed(0)
    good = layer(generator, torch.float16, 2, 256, 3, 1, attends)
    _, names, lengths = torch.ops.lite.conv_stack_order(2, 256, attends)
    assert ("query_bias" in names) == attends
    assert sum(lengths) == sum(len(x) for x in good.constants.values())
    for wrong in (
        good.constants | {"fc1_bias": good.constants["fc2_bias"]},
        {name: x for name, x in good.constants.items() if name != "ffn_norm_scale"},
        good.constants | {"another": good.constants["fc1_bias"]},
    ):
        with pytest.raises(ValueError, match="the kernel reads"):
            ConvStack([dataclasses.replace(good, constants=wrong)], 2, EPS, mask_conv=False)


def test_unsupported_sizes_are_refused():
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
