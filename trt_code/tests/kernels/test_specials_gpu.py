"""NaN and infinities go through the CUDA-graph network's kernels as through PyTorch.

A NaN must neither vanish nor reach results that do not depend on it: other sentences, positions outside a
window, other channels. ``test_plugins`` tests the same for the plugins' kernels.
"""

import pytest
import torch

from train_model.ops import load_cuda_library
from trt_code.tests.kernels import reference_ops
from trt_code.tests.kernels.conv_stack_cases import make, on_hopper, reference
from trt_code.tests.kernels.graph_ops_cases import ALL, mask_of, tensors, widen
from trt_code.tests.kernels.reference_ops import as_tuple

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
    pytest.mark.skipif(not load_cuda_library(), reason="the CUDA operators are not built"),
]


def arguments_with_specials(name, dtype, special):
    """An operator's arguments with ``special`` in a few elements of the first sentence or table."""

    def spoilt(x, *places):
        for place in places:
            x[place] = special
        return x

    def drawn(*shapes):
        found = tensors(dtype, *shapes)
        return found if len(shapes) > 1 else found[0]

    mask = mask_of([20, 13, 9], 20)
    match name:
        case "linear" | "linear in TF32":
            x, weight, bias = drawn((3, 7, 64), (24, 64), (24,))
            return spoilt(x, (0, 2, 5), (0, 4, 63)), weight, bias, None, True, name != "linear"
        case "linear with a residual":
            x, weight, bias, residual = drawn((3, 7, 64), (24, 64), (24,), (3, 7, 24))
            return x, weight, bias, spoilt(residual, (0, 2, 5)), False, False
        case "linear_glu" | "linear_glu in TF32":
            x, weight, bias = drawn((3, 20, 64), (48, 64), (48,))
            return spoilt(x, (0, 2, 5)), weight * 0.1, bias, mask, name != "linear_glu"
        case "linear_glu of many rows":
            x, weight, bias = drawn((3, 400, 64), (256, 64), (256,))
            return spoilt(x, (0, 2, 5)), weight * 0.1, bias, mask_of([400, 30, 9], 400), False
        case "linear_norm":
            x, weight, bias, residual = drawn((3, 400, 64), (256, 64), (256,), (3, 400, 256))
            spoilt(x, (0, 2, 5)), spoilt(residual, (0, 7, 23), (0, 300, 200))
            scale, shift = tensors(torch.float32, (256,), (256,))
            return x, weight, bias, 1.0, residual, scale, shift, 1e-5, None, None
        case "glu_mask":
            return spoilt(drawn((3, 20, 24)), (0, 2, 5), (0, 7, 23)), mask
        case "layer_norm_add":
            x, after = drawn((3, 20, 24), (20, 24))
            scale, shift = tensors(torch.float32, (24,), (24,))
            return spoilt(x, (0, 2, 5)), scale, shift, 1e-5, after
        case "self_conv" | "self_conv of a gate":
            glu = name != "self_conv"
            x, weight = drawn((3, 20, 48 * (1 + glu)), (12, 48))
            return spoilt(x, (0, 9, 7), (0, 17, 40)), weight * 0.1, None, 3, 4, 2, glu
        case "attention" | "attention to values":
            query, pairs = drawn((3, 18, 64), (3, 20, 256))
            place = (0, 5, 128 + 7) if name == "attention" else (0, 5, 192 + 7)
            return query * 0.1, spoilt(pairs, place), mask, 1, 2
        case "embed_source":
            embedding, positions = drawn((50, 24), (22, 24))
            tokens = torch.arange(60, device="cuda").view(3, 20) % 46 + 4
            return tokens, spoilt(embedding, (9, 3)), positions
        case "copy_source" | "copy_source of embeddings":
            queries, keys, embedded, embedding, positions = drawn(
                (15, 64), (3, 20, 64), (3, 20, 64), (9, 64), (15, 64)
            )
            spoilt(keys if name == "copy_source" else embedded, (0, 5, 3))
            lengths = torch.tensor([13, 9, 2], device="cuda")
            return lengths, 13, queries * 0.1, keys, embedded, mask, embedding, positions
        case "predict_length":
            x, weight = drawn((3, 20, 64), (50, 64))
            return spoilt(x, (0, 5, 3)), mask, weight, mask.sum(1) * 2, 0, False


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("special", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    "name",
    [
        "linear",
        "linear with a residual",
        "linear in TF32",
        "linear_glu",
        "linear_glu in TF32",
        "linear_glu of many rows",
        "linear_norm",
        "glu_mask",
        "layer_norm_add",
        "self_conv",
        "self_conv of a gate",
        "attention",
        "attention to values",
        "embed_source",
        "copy_source",
        "copy_source of embeddings",
        "predict_length",
    ],
)
def test_nan_and_infinity_go_where_they_go_in_pytorch(name, special, dtype):
    if name == "linear_norm" and dtype == torch.float32:
        pytest.skip("the norm is in a product's epilogue in 16 bits")
    arguments = arguments_with_specials(name, dtype, special)
    name = name.split()[0]
    actual = getattr(torch.ops.lite, name)(*arguments)
    exact = getattr(reference_ops, name)(*map(widen, arguments))
    for a, e in zip(as_tuple(actual), as_tuple(exact), strict=True):
        if not a.is_floating_point():
            assert a.equal(e.to(a.dtype))
            continue
        # FP32 operands are split, which makes NaN of an infinity: as little a number as that.
        split = dtype == torch.float32 and special is not torch.nan
        assert 0 < e.isfinite().sum() < e.numel()
        if split:
            assert not (a.isfinite() & ~e.isfinite()).any()
        else:
            assert a.isnan().equal(e.isnan())
            assert a.isposinf().equal(e.isposinf())
            assert a.isneginf().equal(e.isneginf())
        assert a[1:].isfinite().equal(e[1:].isfinite())  # the other sentences


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("special", [torch.nan, torch.inf, -torch.inf])
def test_a_path_of_the_crf_is_pytorchs(special, dtype):
    """Candidates come from a top-k, which puts NaN and infinities first."""
    generator = torch.Generator().manual_seed(3)
    emissions = torch.randint(-3, 4, (3, 12, 5), generator=generator).to(dtype)
    emissions[0, 4] = special
    emissions[0, 7, :2] = special
    emissions = emissions.sort(-1, descending=True).values
    targets = torch.randint(0, 30, (3, 12, 5), generator=generator).int()
    tables = torch.randint(-2, 3, (2, 30, 8), generator=generator).to(dtype)
    mask = mask_of([12, 10, 7], 12).cpu()
    arguments = emissions, targets, *tables, mask
    tokens, scores = torch.ops.lite.crf_decode(*(x.cuda() for x in arguments))
    expected_tokens, expected_scores = torch.ops.lite.crf_decode(*arguments)
    assert not expected_scores.isfinite().all()
    assert tokens.cpu().equal(expected_tokens)
    torch.testing.assert_close(scores.cpu(), expected_scores, rtol=0, atol=0, equal_nan=True)


@on_hopper
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("special", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("source", [0, 11])
def test_all_layers_in_one_kernel(source, special, dtype):
    heads = 2
    stack, layers, arguments = make(dtype, 3, 40, heads, 512, source)
    clean = stack(*arguments)
    arguments[0][0, 8, 5] = special
    actual = stack(*arguments)
    exact = reference(layers, heads, False, *arguments, torch.float64)
    assert 0 < exact.isfinite().sum() < exact.numel()
    assert actual[1:].equal(clean[1:])
    assert actual.isnan().equal(exact.isnan())
