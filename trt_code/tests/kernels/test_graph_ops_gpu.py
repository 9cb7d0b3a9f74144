"""The operators of the CUDA-graph network against their references in float64.

The error may be at most twice that of PyTorch's operators for the same inputs and dtype.
"""

import pytest
import torch

from train_model.ops import load_cuda_library
from trt_code.tests.kernels import reference_ops
from trt_code.tests.kernels.graph_ops_cases import ALL, mask_of, tensors, widen
from trt_code.tests.kernels.reference_ops import as_tuple, relative_error

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
    pytest.mark.skipif(not load_cuda_library(), reason="the CUDA operators are not built"),
]

FLOOR = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def check(name, *arguments, dtype):
    """Compare the operator with its reference in float64, and with a second call."""
    operator, reference = getattr(torch.ops.lite, name), getattr(reference_ops, name)
    actual, again = operator(*arguments), operator(*arguments)
    exact, native = reference(*map(widen, arguments)), reference(*arguments)
    for a, b, e, n in zip(*map(as_tuple, (actual, again, exact, native)), strict=True):
        assert a.shape == e.shape
        assert a.equal(b)
        if not a.is_floating_point():
            assert a.equal(e.to(a.dtype))
            continue
        assert a.isfinite().all()
        assert relative_error(a, e) <= max(2 * relative_error(n, e), FLOOR[dtype])


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize(
    "shape", [(1, 1, 8, 8), (3, 7, 64, 24), (16, 32, 512, 2048), (2, 5, 496, 104)]
)
@pytest.mark.parametrize("parts", [(True, True, False), (True, False, True), (False, False, False)])
def test_linear(dtype, shape, parts):
    batch, length, inner, outer = shape
    bias, residual, relu = parts
    x, weight, b, r = tensors(
        dtype, (batch, length, inner), (outer, inner), (outer,), (batch, length, outer)
    )
    arguments = x, weight, b if bias else None, r if residual else None, relu, False
    check("linear", *arguments, dtype=dtype)


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 8, 8), (3, 7, 64, 24), (16, 32, 512, 1024), (2, 50, 496, 104), (13, 100, 80, 512)],
)
@pytest.mark.parametrize("masked", [False, True])
def test_linear_glu(dtype, shape, masked):
    batch, length, inner, outer = shape
    x, weight, bias = tensors(dtype, (batch, length, inner), (outer, inner), (outer,))
    mask = mask_of([length - i % length for i in range(batch)], length) if masked else None
    check("linear_glu", x, weight * inner**-0.5, bias, mask, False, dtype=dtype)


MANY_ROWS = [(3, 7, 64, 32), (9, 130, 80, 256), (13, 301, 512, 512), (16, 64, 2048, 1024)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", MANY_ROWS)
@pytest.mark.parametrize("parts", [(True, True, True), (False, False, False)])
def test_linear_norm(dtype, shape, parts):
    """The fastest way for the sizes; ``kernel_driver`` tests the kernel for many rows alone."""
    batch, length, inner, outer = shape
    x, weight, bias, residual, after = tensors(
        dtype, shape[:3], (outer, inner), (outer,), (batch, length, outer), (length, outer)
    )
    scale, shift = tensors(torch.float32, (outer,), (outer,))
    bias, after, fp8_factor = (
        v if part else None for v, part in zip((bias, after, 20.0), parts, strict=True)
    )
    product = x, weight * inner**-0.5, bias, 1.0, residual
    arguments = *product, scale, shift, 1e-5, after, fp8_factor
    actual, again = (torch.ops.lite.linear_norm(*arguments) for _ in range(2))
    exact = reference_ops.linear_norm(*map(widen, arguments[:9]), None)[0]
    assert len(actual) == 1 + (fp8_factor is not None)
    assert all(
        a.view(torch.uint8).equal(b.view(torch.uint8)) for a, b in zip(actual, again, strict=True)
    )
    assert relative_error(actual[0], exact) <= FLOOR[dtype]
    if fp8_factor is not None:
        check_fp8(actual[1], exact, fp8_factor)


@pytest.mark.parametrize("tf32", [True, False], ids=["tf32", "fp32"])
@pytest.mark.parametrize(
    ("rows", "inner", "outer"),
    [(1, 4, 4), (63, 8, 24), (65, 36, 132), (200, 200, 40), (512, 512, 1024), (130, 2048, 512)],
)
@pytest.mark.parametrize("kind", ["plain", "relu", "residual", "glu"])
def test_linear_of_fp32_tensors(kind, rows, inner, outer, tf32):
    """The fastest way to multiply; ``kernel_driver`` compares every variant of our own kernels."""
    x, weight, bias, residual = tensors(
        torch.float32, (rows, inner), (outer, inner), (outer,), (rows, outer)
    )
    weight = weight * inner**-0.5
    torch.cuda.synchronize()  # the kernels read their weight before they wait for the previous kernel
    bias = None if kind == "plain" else bias
    if kind == "glu":
        name, arguments = "linear_glu", (x, weight, bias, mask_of([rows // 2], rows)[0], tf32)
    else:
        residual = residual if kind == "residual" else None
        name, arguments = "linear", (x, weight, bias, residual, kind == "relu", tf32)
    operator, reference = getattr(torch.ops.lite, name), getattr(reference_ops, name)
    actual, again = operator(*arguments), operator(*arguments)
    exact = reference(*map(widen, arguments))
    assert actual.equal(again)
    assert actual.shape == exact.shape
    assert actual.isfinite().all()
    native = relative_error(reference(*arguments), exact)
    # TF32 has ten bits of mantissa. FP32: with few inputs, cuBLAS's error can be far below one unit
    # in the last place. Then some units are allowed.
    assert relative_error(actual, exact) < (2e-3 if tf32 else max(2 * native, 1e-6))


@pytest.mark.parametrize("scale", [1e-36, 1e-40])
def test_linear_of_subnormal_inputs(scale):
    """The kernel for FP32 on Hopper loses an input's bits below 2^-136, and no more."""
    x, weight = tensors(torch.float32, (1000, 100), (140, 100))
    x = x * scale
    torch.cuda.synchronize()
    actual = torch.ops.lite.linear(x, weight, None, None, False, False)
    exact = x.double() @ weight.double().T
    lost = 2.0**-136 * weight.double().abs().sum(1)
    assert ((actual.double() - exact).abs() <= lost + 1e-6 * exact.abs().max()).all()


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize(
    "shape",
    # the last ones have more rows than the GPU holds warps
    [(1, 1, 1), (3, 7, 24), (16, 64, 512), (2, 3, 2000), (90, 111, 512), (64, 200, 65)],
)
def test_layer_norm_add(dtype, shape):
    x, after = tensors(dtype, shape, shape[1:])
    scale, shift = tensors(torch.float32, shape[2:], shape[2:])
    check("layer_norm_add", x, scale, shift, 1e-5, after, dtype=dtype)


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("batch", "length", "channels", "heads", "kernel_size", "padding_l"),
    [
        (1, 1, 16, 1, 1, 0),
        (2, 9, 48, 3, 4, 3),
        (3, 17, 512, 8, 15, 14),
        (3, 33, 512, 8, 15, 7),
        (16, 64, 512, 8, 3, 2),
        (2, 12, 240, 4, 31, 15),
        (1, 5, 128, 8, 31, 30),
        (64, 70, 128, 4, 15, 14),  # enough for tiles of 16 positions in FP32
        (64, 130, 512, 8, 15, 14),  # for tiles of 32 in 16 bits
        (130, 128, 240, 3, 31, 15),  # of 64
    ],
)
@pytest.mark.parametrize("glu", [False, True])
def test_self_conv(dtype, glu, masked, batch, length, channels, heads, kernel_size, padding_l):
    x, weight = tensors(
        dtype, (batch, length, channels * (1 + glu)), (heads * kernel_size, channels)
    )
    mask = mask_of([length - i % length for i in range(batch)], length) if masked else None
    weight = weight * channels**-0.5
    check("self_conv", x, weight, mask, heads, kernel_size, padding_l, glu, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernel_size", [3, 15])
@pytest.mark.parametrize("padding", ["causal", "masked"])
def test_bits_of_self_conv_do_not_depend_on_the_batch(dtype, kernel_size, padding):
    """The tiles differ: 64 positions for all sentences, then 32, then 16."""
    batch, length, channels, heads = 96, 192, 512, 8
    x, weight = tensors(dtype, (batch, length, 2 * channels), (heads * kernel_size, channels))
    lengths = [length - i % length for i in range(batch)]
    mask = mask_of(lengths, length) if padding == "masked" else None
    before = kernel_size - 1 if padding == "causal" else kernel_size // 2

    def conv(first, last, width):
        part = None if mask is None else mask[first:last, :width].contiguous()
        rows = x[first:last, :width].contiguous()
        arguments = weight * channels**-0.5, part, heads, kernel_size, before, True
        return torch.ops.lite.self_conv(rows, *arguments)

    every = conv(0, batch, length)
    assert conv(64, 96, length).equal(every[64:])
    for i in (0, 1, 60, 95):
        assert conv(i, i + 1, length).equal(every[i : i + 1])
        assert conv(i, i + 1, lengths[i]).equal(every[i : i + 1, : lengths[i]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("fp8_factor", [None, 1.0])
def test_self_conv_keeps_a_nan_out_of_other_windows(dtype, masked, fp8_factor):
    """A NaN reaches the windows that hold it, and no others."""
    batch, length, channels, heads, kernel_size, padding_l = 80, 256, 64, 4, 7, 6
    x, weight = tensors(dtype, (batch, length, channels), (heads * kernel_size, channels))
    x[3, 77, 5] = x[9, 0, 63] = x[11, 255, 0] = float("nan")
    mask = mask_of([length - i for i in range(batch)], length) if masked else None
    arguments = weight * 0.1, mask, heads, kernel_size, padding_l, False
    actual = torch.ops.lite.self_conv(x, *arguments, fp8_factor=fp8_factor)
    bad = actual.float().isnan().any(-1).nonzero().tolist()
    # a padded position has no window, but computes its own taps from its input
    assert bad == [*([3, t] for t in range(77, 84)), *([9, t] for t in range(7)), [11, 255]]


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize(
    ("batch", "length", "source", "channels", "heads"),
    [
        (1, 1, 1, 16, 1),
        (2, 5, 17, 96, 2),
        (16, 64, 32, 512, 8),
        (3, 254, 254, 256, 2),
        (4, 33, 16, 384, 8),
        (2, 20, 512, 128, 1),
    ],
)
def test_attention(dtype, batch, length, source, channels, heads):
    query, pairs = tensors(dtype, (batch, length, channels), (batch, source, 4 * channels))
    mask = mask_of([max(0, source - 3 * i) for i in range(batch)], source)
    check("attention", query, pairs, mask, 1, heads, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("source", [14, 150])
def test_bits_of_attention_do_not_depend_on_the_batch(dtype, source):
    """Blocks, chunks of keys and, for 14 keys, steps differ between a batch and one sentence."""
    batch, length, padded = 30, 130, source + 60
    query, pairs = tensors(dtype, (batch, length, 512), (batch, padded, 2048))
    query = query * 0.1
    mask = mask_of([source - i % 14 for i in range(batch)], padded)
    every = torch.ops.lite.attention(query, pairs, mask, 1, 8)
    for i in (0, 13, 29):
        one, real = slice(i, i + 1), source - i % 14
        keys, own = pairs[one, :real].contiguous(), mask[one, :real].contiguous()
        alone = torch.ops.lite.attention(query[one, :40].contiguous(), keys, own, 1, 8)
        assert alone.equal(every[one, :40])


FP8 = torch.float8_e4m3fn
FP8_ERROR = 0.04  # three bits of mantissa, on average, and few numbers below the least exponent


def check_fp8(actual, exact, factor):
    assert actual.dtype == FP8
    assert actual.shape == exact.shape
    most = 448 / factor
    assert relative_error(actual.double() / factor, exact.clamp(-most, most)) < FP8_ERROR


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("batch", "length", "channels", "heads", "kernel_size", "padding_l"),
    [
        (3, 17, 512, 8, 15, 14),
        (64, 130, 512, 8, 15, 14),  # tiles of 32 positions, on the matrix units
        (48, 90, 320, 8, 5, 4),
        (96, 192, 128, 4, 15, 7),  # of 64
        (130, 128, 240, 3, 31, 15),
        (270, 50, 72, 9, 3, 2),
    ],
)
def test_self_conv_to_fp8(dtype, masked, batch, length, channels, heads, kernel_size, padding_l):
    x, weight = tensors(dtype, (batch, length, 2 * channels), (heads * kernel_size, channels))
    mask = mask_of([length - i % length for i in range(batch)], length) if masked else None
    arguments = x, weight * channels**-0.5, mask, heads, kernel_size, padding_l, True
    exact = reference_ops.self_conv(*map(widen, arguments))
    actual = torch.ops.lite.self_conv(*arguments, fp8_factor=50.0)
    assert actual.view(torch.uint8).equal(
        torch.ops.lite.self_conv(*arguments, fp8_factor=50.0).view(torch.uint8)
    )
    check_fp8(actual, exact, 50.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("factor", [100.0, 7.5])
def test_results_in_fp8(dtype, factor):
    """What rounds to FP8 as it writes, for small and large inputs."""
    lite = torch.ops.lite
    for batch, length, channels in ((1, 3, 32), (3, 17, 512), (70, 250, 320)):
        x, after, query = tensors(
            dtype, (batch, length, 2 * channels), (length, channels), (batch, length, channels)
        )
        pairs, weight = tensors(dtype, (batch, 70, 4 * channels), (8 * 5, channels))
        scale, shift = tensors(torch.float32, (channels,), (channels,))
        mask, source = mask_of([length - i % length for i in range(batch)], length), None
        source = mask_of([70 - i % 70 for i in range(batch)], 70)
        wide = [widen(v) for v in (query, after, scale, shift)]
        check_fp8(lite.to_fp8(query, factor), wide[0], factor)
        check_fp8(lite.glu_mask(x, mask, factor), reference_ops.glu_mask(widen(x), mask), factor)
        for added in (None, after):
            y, low = lite.layer_norm_fp8(query, scale, shift, 1e-5, added, factor)
            exact = reference_ops.layer_norm(wide[0], None, wide[2], wide[3], 1e-5)
            exact = exact if added is None else exact + wide[1]
            check_fp8(low, exact, factor)
            assert relative_error(y, exact) < FLOOR[dtype]
        conv = weight * channels**-0.5, mask, 8, 5, 4, True
        exact = reference_ops.self_conv(*map(widen, (x, *conv)))
        check_fp8(lite.self_conv(x, *conv, fp8_factor=factor), exact, factor)
        heads = 2 if channels == 32 else channels // 64
        pairs = query * 0.3, pairs, source, 1, heads
        exact = reference_ops.attention(*map(widen, pairs))
        check_fp8(lite.attention(*pairs, fp8_factor=factor), exact, factor)


def test_fp8_ends_at_its_largest_number():
    x = torch.tensor([1e4, -1e4, float("inf"), float("nan")] * 4, device="cuda").half()
    actual = torch.ops.lite.to_fp8(x, 1.0).float()
    assert actual[:3].tolist() == [448, -448, 448]
    assert actual[3].isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, FP8])
@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (3, 7, 64, 48), (16, 64, 512, 2048)])
@pytest.mark.parametrize("parts", [(True, True, False), (True, False, True), (False, False, False)])
def test_linear_fp8(dtype, shape, parts):
    batch, length, inner, outer = shape
    bias, residual, relu = parts
    added = torch.float16 if dtype == FP8 else dtype
    if dtype == FP8 and residual:
        pytest.skip("a residual needs a 16-bit result")
    x, weight, b, r = tensors(
        added, (batch, length, inner), (outer, inner), (outer,), (batch, length, outer)
    )
    x, weight, alpha = x.to(FP8), weight.to(FP8), 3 * inner**-0.5
    b, r = b if bias else None, r if residual else None
    arguments = x, weight, b, r, relu, alpha, dtype
    actual, again = torch.ops.lite.linear_fp8(*arguments), torch.ops.lite.linear_fp8(*arguments)
    wide = [None if v is None else v.double() for v in (b, r)]
    exact = reference_ops.linear(x.double() * alpha, weight.double(), *wide, relu, False)
    assert actual.view(torch.uint8).equal(again.view(torch.uint8))
    if dtype == FP8:
        check_fp8(actual, exact, 1.0)
    else:
        assert relative_error(actual, exact) < 2 * FLOOR[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 7, 64, 48), (9, 130, 80, 256), (13, 301, 512, 1024)])
@pytest.mark.parametrize("fp8_factor", [None, 50.0])
def test_linear_glu_fp8(dtype, shape, fp8_factor):
    batch, length, inner, outer = shape
    x, weight, bias = tensors(dtype, shape[:3], (outer, inner), (outer,))
    mask = mask_of([length - i % length for i in range(batch)], length)
    arguments = x.to(FP8), weight.to(FP8), bias, mask, inner**-0.5, dtype, fp8_factor
    actual, again = (torch.ops.lite.linear_glu_fp8(*arguments) for _ in range(2))
    y = arguments[0].double() @ arguments[1].double().T * arguments[4] + bias.double()
    exact = reference_ops.glu_mask(y, mask)
    assert actual.view(torch.uint8).equal(again.view(torch.uint8))
    if fp8_factor is None:
        assert relative_error(actual, exact) < 2 * FLOOR[dtype]
    else:
        check_fp8(actual, exact, fp8_factor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 7, 64, 48), (9, 130, 80, 256), (13, 301, 2048, 512)])
@pytest.mark.parametrize("fp8_factor", [None, 20.0])
def test_linear_norm_of_fp8(dtype, shape, fp8_factor):
    batch, length, inner, outer = shape
    x, weight, bias, residual, after = tensors(
        dtype, shape[:3], (outer, inner), (outer,), (batch, length, outer), (length, outer)
    )
    scale, shift = tensors(torch.float32, (outer,), (outer,))
    product = x.to(FP8), weight.to(FP8), bias, inner**-0.5, residual
    actual = torch.ops.lite.linear_norm(*product, scale, shift, 1e-5, after, fp8_factor)
    exact = product[0].double() @ product[1].double().T * product[3] + (bias + residual.double())
    exact = reference_ops.layer_norm(exact, None, scale, shift, 1e-5) + after
    assert relative_error(actual[0], exact) < 2 * FLOOR[dtype]
    if fp8_factor is not None:
        check_fp8(actual[1], exact, fp8_factor)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("to_fp8", lambda x: (x, 2.0)),
        ("to_fp8", lambda x: (x.half(), 0.0)),
        ("to_fp8", lambda x: (x.half(), float("inf"))),
        ("to_fp8", lambda x: (x.half()[0, 0, :5].contiguous(), 2.0)),
        (
            "layer_norm_fp8",
            lambda x: (x.half()[..., :8].contiguous(), *2 * [x[0, 0, :8]], 0, None, 1.0),
        ),
        ("linear_fp8", lambda x: (x, x[0], None, None, False, 1.0, torch.float16)),
        ("linear_fp8", lambda x: (x.to(FP8), x[0, :3].to(FP8), None, None, False, 1.0, torch.half)),
        ("linear_fp8", lambda x: (*2 * [x[0].tile(4, 1).to(FP8)], None, x[0], False, 1.0, FP8)),
        ("linear_fp8", lambda x: (*2 * [x[0].tile(4, 1).to(FP8)], x[0, 0], None, False, 1.0, FP8)),
        (
            "linear_fp8",
            lambda x: (*2 * [x[0].tile(4, 1).to(FP8)], None, None, False, 1.0, torch.float),
        ),
    ],
)
def test_bad_arguments_of_fp8_are_refused(name, arguments):
    with pytest.raises(RuntimeError, match=f"lite::{name}"):
        getattr(torch.ops.lite, name)(*arguments(torch.ones(2, 4, 16, device="cuda")))
    torch.cuda.synchronize()


@pytest.mark.parametrize("width", [1, 6, 17, 33, 100])
def test_attention_of_odd_heads_in_fp32(width):
    query, pairs = tensors(torch.float32, (2, 18, 3 * width), (2, 70, 12 * width))
    check("attention", query, pairs, mask_of([70, 9], 70), 1, 3, dtype=torch.float32)


def test_tf32_is_used_where_it_is_asked_for():
    """The error is that of TF32's 10 bits of mantissa: not FP32's, and not larger."""
    x, weight, pairs = tensors(torch.float32, (3, 33, 512), (120, 512), (3, 32, 2048))
    weight, mask = weight * 512**-0.5, mask_of([32, 20, 7], 32)
    for name, arguments in (
        ("self_conv", (x, weight, None, 8, 15, 7, False)),
        ("attention", (x * 0.1, pairs, mask, 1, 8)),
    ):
        operator, reference = getattr(torch.ops.lite, name), getattr(reference_ops, name)
        exact = reference(*map(widen, arguments))
        error = relative_error(operator(*arguments, tf32=True), exact)
        assert relative_error(operator(*arguments), exact) < 1e-5 < error < 1e-3


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("channels", [1, 20, 64, 512])
@pytest.mark.parametrize("side", ["left", "right"])
def test_embed_source(dtype, channels, side):
    embedding, positions = tensors(dtype, (50, channels), (102, channels))
    tokens = torch.randint(4, 50, (5, 70), device="cuda")
    for row in range(1, 5):
        part = slice(0, 17 * row) if side == "left" else slice(70 - 17 * row, 70)
        tokens[row, part] = 1
    check("embed_source", tokens, embedding, positions, dtype=dtype)


def test_embed_source_takes_foreign_tokens_for_unknown():
    embedding, positions = tensors(torch.float32, (50, 8), (10, 8))
    foreign, unknown = torch.tensor([[4, 50, -7, 2**40]]), torch.tensor([[4, 3, 3, 3]])
    actual = torch.ops.lite.embed_source(foreign.cuda(), embedding, positions)[0]
    assert actual.equal(torch.ops.lite.embed_source(unknown.cuda(), embedding, positions)[0])


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("channels", [3, 64, 512])
@pytest.mark.parametrize("relative", [False, True])
def test_predict_length(dtype, channels, relative):
    x, weight = tensors(dtype, (6, 20, channels), (256, channels))
    mask = mask_of([20, 1, 0, 7, 13, 19], 20)
    limits = torch.tensor([40, 40, 40, 2, 40, 40], device="cuda")
    arguments = x, mask, weight, limits, -128 if relative else 0, relative
    actual = torch.ops.lite.predict_length(*arguments)
    assert actual.equal(reference_ops.predict_length(*map(widen, arguments)))


def copy_case(dtype, batch, width, source, channels):
    """Arguments of ``copy_source``, in its order."""
    queries, keys, embedded, embedding, positions = tensors(
        dtype,
        (width + 2, channels),
        (batch, source, channels),
        (batch, source, channels),
        (20, channels),
        (width + 2, channels),
    )
    queries = queries * channels**-0.5
    lengths = torch.arange(batch, device="cuda") % (width - 1) + 2
    mask = mask_of([max(0, source - i) for i in range(batch)], source)
    return lengths, width, queries, keys, embedded, mask, embedding, positions


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize(
    ("batch", "width", "source"), [(1, 2, 1), (3, 13, 7), (96, 100, 50), (40, 254, 127)]
)
@pytest.mark.parametrize("channels", [9, 40, 64, 512])
def test_copy_source(dtype, batch, width, source, channels):
    check("copy_source", *copy_case(dtype, batch, width, source, channels), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bits_of_copy_source_do_not_depend_on_the_batch(dtype):
    """The blocks differ: 32 positions for all sentences, 16 for one."""
    batch, width, source = 60, 140, 90
    arguments = copy_case(dtype, batch, width, source, 512)
    lengths, _, queries, keys, embedded, mask, embedding, positions = arguments
    every = torch.ops.lite.copy_source(*arguments)[0]
    for i in (0, 1, 20, 59):
        length, real = int(lengths[i]), source - i
        alone = torch.ops.lite.copy_source(
            lengths[i : i + 1],
            length,
            queries,
            keys[i : i + 1, :real].contiguous(),
            embedded[i : i + 1, :real].contiguous(),
            mask[i : i + 1, :real].contiguous(),
            embedding,
            positions,
        )[0]
        assert alone.equal(every[i : i + 1, :length])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("self_conv", lambda x: (x, x.new_ones(6, 16), None, 2**32 + 2, 3, 1, False)),
        ("self_conv", lambda x: (x, x.new_ones(6, 16), None, 2, 3, 2**32 + 1, False)),
        ("self_conv_fits", lambda x: (64, 2**32 + 2, 3, 1, x.dtype)),
        ("attention_fits", lambda x: (64, 2**32 + 4, x.dtype)),
        ("why_not_attend_step", lambda x: (64, 2**32 + 4, 9, x.dtype)),
        ("why_not_convolve_step", lambda x: (64, 4, 2**32 + 3, x.dtype)),
        ("why_not_choose_step", lambda x: (2**32 + 4, 99, x.dtype)),
        ("attention", lambda x: (x, x.new_ones(2, 4, 32), x[:, :, 0].int(), 0, 2**32 + 2)),
        ("predict_length", lambda x: (*lengths_of(x), 2**32, False)),
        ("copy_source", lambda x: (*copy_of(x, 2**32 + 4),)),
        ("top_k", lambda x: (x, 2**32 + 1)),
        ("dynamic_conv_fused", lambda x: (x, x.new_ones(2, 4, 6), None, 2, 3, 2**32 + 1)),
        ("conv_stack_fits", lambda x: (x.half(), 2**32 + 2, 256, [3], [1], 0, 0)),
        ("conv_stack_fits", lambda x: (x.half(), 2, 256, [2**32 + 3], [1], 0, 0)),
    ],
)
def test_a_number_is_not_cut_to_32_bits(name, arguments):
    with pytest.raises(RuntimeError, match="32 bits"):
        getattr(torch.ops.lite, name)(*arguments(torch.ones(2, 4, 16, device="cuda")))


def lengths_of(x):
    mask, limits = x.new_ones(2, 4).int(), x.new_full((2,), 8).long()
    return x, mask, x.new_ones(5, 16), limits


def copy_of(x, width):
    lengths, mask = x.new_full((2,), 3).long(), x.new_ones(2, 4).int()
    return lengths, width, x.new_ones(9, 16), x, x, mask, x.new_ones(9, 16), x.new_ones(9, 16)


@pytest.mark.parametrize("dtype", ALL)
def test_the_attention_fits_as_its_reference(dtype):
    fits = torch.ops.lite.attention_fits
    for sizes in ((128, 8), (120, 5), (128, 1), (144, 1), (256, 1)):
        assert fits(*sizes, dtype) == reference_ops.attention_fits(*sizes, dtype), sizes


def test_sizes_beyond_32_bits_in_a_kernel_are_refused():
    assert not torch.ops.lite.self_conv_fits(2**30, 2**28, 16, 1, torch.float16)
    with pytest.raises(RuntimeError, match="needs more positions"):
        torch.ops.lite.copy_source(*copy_of(torch.ones(2, 4, 16, device="cuda"), 2**31 - 1))


def test_a_layer_beyond_the_keys_is_refused():
    x = torch.ones(2, 4, 16, device="cuda")
    for layer in (-1, 1, 2**62):
        with pytest.raises(RuntimeError, match="is not within keys_values"):
            torch.ops.lite.attention(x, x.new_ones(2, 4, 32), x.new_ones(2, 4).int(), layer, 2)


def test_a_choice_made_while_capturing_is_not_kept():
    """A capture cannot time the candidates of a product. Only the first call after it does."""
    x, weight = tensors(torch.float16, (37, 72), (136, 72))
    arguments = x, weight, None, None, False, False
    torch.ops.lite.linear(x[1:].contiguous(), *arguments[1:])  # loads cuBLASLt and its kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        captured = torch.ops.lite.linear(*arguments)

    def scratch_of_a_call():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        torch.ops.lite.linear(*arguments)
        return torch.cuda.max_memory_allocated() - before

    timed, known = scratch_of_a_call(), scratch_of_a_call()
    assert timed >= 32 << 20  # the candidates' workspace
    assert known < timed / 2
    graph.replay()
    exact = reference_ops.linear(*map(widen, arguments))
    assert relative_error(captured, exact) < FLOOR[torch.float16]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("linear", lambda x: (x, x.new_ones(8, 15), None, None, False, False)),
        ("linear", lambda x: (x, x.new_ones(8, 16).half(), None, None, False, False)),
        ("linear", lambda x: (x, x.new_ones(8, 16), x.new_ones(7), None, False, False)),
        ("self_conv", lambda x: (x, x.new_ones(6, 8), None, 2, 3, 1, False)),
        ("linear_glu", lambda x: (x, x.new_ones(7, 16), None, None, False)),
        (
            "linear_norm",
            lambda x: (x, x[0, :, :16], None, 1.0, x.half(), x[0, 0], x[0, 0], 0.0, None, None),
        ),
        ("attention", lambda x: (x.half(), x.new_ones(2, 4, 32).half(), None, 0, 3)),
        ("embed_source", lambda x: (x[0].int(), x[0], x[0])),
        ("predict_length", lambda x: (x, x[:, :, 0], x[0], x[0, :2, 0].long(), 0, False)),
        ("copy_source", lambda x: (x[:, 0, 0].long(), 99, x[0], x, x, None, x[0], x[0])),
    ],
)
def test_bad_arguments_are_refused_before_a_launch(name, arguments):
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        getattr(torch.ops.lite, name)(*arguments(torch.ones(2, 4, 16, device="cuda")))
    torch.cuda.synchronize()
