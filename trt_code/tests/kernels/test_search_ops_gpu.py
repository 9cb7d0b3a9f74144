"""The operators of a search's step against their references in float64, and whole searches on a GPU."""

import numpy as np
import pytest
import torch

from train_model.model_folder import find_model
from train_model.models.beam_search import Search, search
from train_model.models.checkpoint import load_checkpoint
from train_model.models.hypotheses import SearchOptions
from train_model.models.incremental import IncrementalDecoder
from train_model.ops import load_cuda_library
from train_model.tests.networks import of_architecture
from trt_code.cuda_graph.search_steps import FusedSearch, why_not
from trt_code.runners.search.cuda_graph_steps import graphed_search
from trt_code.tests.kernels import reference_ops
from trt_code.tests.kernels.graph_ops_cases import ALL, tensors, widen
from trt_code.tests.kernels.reference_ops import relative_error

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
    pytest.mark.skipif(not load_cuda_library(), reason="the CUDA operators are not built"),
]

FLOOR = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def on_gpu(value):
    return torch.tensor(value, device="cuda")


def ancestors_of(rows, beam, capacity, position):
    """A table as embed_step leaves it: rows of the same sentence, and the own row last."""
    generator = torch.Generator("cuda").manual_seed(rows)
    shape = 2, rows, capacity
    chosen = torch.randint(0, beam, shape, device="cuda", generator=generator)
    first = torch.arange(rows, device="cuda") // beam * beam
    table = (first[:, None] + chosen).int()
    table[position % 2, :, position] = torch.arange(rows, device="cuda")
    return table


def check(name, *arguments, written, dtype):
    """Compare what the operator writes to the arguments ``written`` with its reference in float64."""
    copies = [
        [x.clone() if isinstance(x, torch.Tensor) else x for x in arguments] for _ in range(2)
    ]
    wide = list(map(widen, copies[1]))
    results = getattr(torch.ops.lite, name)(*copies[0]), getattr(reference_ops, name)(*wide)
    pairs = [results] if written == () else [(copies[0][i], wide[i]) for i in written]
    for actual, exact in pairs:
        assert actual.isfinite().all()
        assert relative_error(actual, exact) <= 2 * FLOOR[dtype]


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize(
    ("batch", "beam", "capacity", "position", "channels", "heads"),
    [
        (1, 1, 1, 0, 16, 2),
        (3, 1, 32, 31, 64, 4),
        (2, 5, 40, 17, 160, 4),
        (33, 3, 254, 100, 320, 8),
        (2, 4, 300, 299, 33, 3),
        (1, 2, 9, 8, 600, 1),
    ],
)
def test_attend_past(dtype, batch, beam, capacity, position, channels, heads):
    rows = batch * beam
    projected, keys, values, out = tensors(
        dtype,
        (rows, 3 * channels + 8),
        *[(rows, capacity, channels)] * 2,
        (rows, channels + 8),
    )
    table = None if beam == 1 else ancestors_of(rows, beam, capacity, position)
    arguments = projected[:, : 3 * channels], keys, values, table, on_gpu(position), heads
    check("attend_past", *arguments, out[:, :channels], written=(1, 2, 6), dtype=dtype)


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize(
    ("batch", "beam", "source", "channels", "heads"),
    [(1, 1, 1, 16, 2), (3, 1, 32, 128, 8), (2, 5, 77, 320, 8), (5, 2, 254, 33, 3)],
)
def test_attend_source(dtype, batch, beam, source, channels, heads):
    query, side_by_side = tensors(dtype, (batch, beam, channels), (batch, source, 4 * channels))
    keys, values = side_by_side[..., channels : 3 * channels].split(channels, -1)
    mask = torch.zeros(batch, source, dtype=torch.bool, device="cuda")
    mask[0, source // 2 + 1 :] = True
    check("attend_source", query, keys, values, mask, heads, written=(), dtype=dtype)


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize(
    ("batch", "beam", "capacity", "position", "channels", "heads", "kernel_size"),
    [
        (1, 1, 1, 0, 16, 2, 3),
        (3, 1, 32, 2, 64, 4, 15),
        (2, 5, 40, 39, 160, 4, 31),
        (600, 1, 32, 9, 64, 4, 7),
        (131, 5, 20, 19, 320, 8, 4),
        (4, 2, 8, 3, 24, 3, 1),
        (2, 1, 8, 3, 24, 8, 2728),  # all of the shared memory that the operator uses
    ],
)
@pytest.mark.parametrize("glu", [True, False])
@pytest.mark.parametrize("softmax", [True, False])
def test_convolve_step(
    dtype, batch, beam, capacity, position, channels, heads, kernel_size, glu, softmax
):
    rows, width, vector = batch * beam, channels * (1 + glu), 16 // dtype.itemsize
    x, weight, inputs, out = tensors(
        dtype,
        (rows, width + 8),
        (channels // vector, heads * kernel_size, vector),
        (rows, capacity, channels),
        (rows, channels + 8),
    )
    weight = weight / channels**0.5
    table = None if beam == 1 else ancestors_of(rows, beam, capacity, position)
    arguments = x[:, :width], weight, inputs, table, on_gpu(position), heads, glu, softmax
    # the taps come from the rounded gated input, which the float64 reference does not round
    check("convolve_step", *arguments, out[:, :channels], written=(2, 8), dtype=dtype)


def test_convolve_step_refuses_a_row_beyond_its_shared_memory():
    x, weight, inputs, out = tensors(torch.half, (1, 48), (3, 8 * 2729, 8), (1, 8, 24), (1, 24))
    with pytest.raises(RuntimeError, match="96 KiB"):
        torch.ops.lite.convolve_step(x, weight, inputs, None, on_gpu(0), 8, True, True, out)


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("why_not_attend_step", [(64, 4, 4096), (64, 4, 4097), (64, 5, 9), (1025, 1, 9)]),
        ("why_not_convolve_step", [(24, 8, 2728), (24, 8, 2729), (24, 5, 3), (26, 2, 3)]),
        ("why_not_choose_step", [(16, 33), (16, 32), (17, 99)]),
    ],
)
def test_the_references_refuse_what_the_operators_refuse(dtype, name, sizes):
    for case in sizes:
        reason = getattr(torch.ops.lite, name)(*case, dtype)
        assert reason == getattr(reference_ops, name)(*case, dtype), case
        assert (reason is None) == (case == sizes[0])


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize(("batch", "beam", "channels"), [(1, 1, 16), (7, 3, 320), (3, 16, 33)])
@pytest.mark.parametrize("has_positions", [True, False])
def test_embed_step(dtype, batch, beam, channels, has_positions):
    embedding, positions = tensors(dtype, (40, channels), (30, channels))
    tokens = torch.randint(0, 40, (batch, beam), device="cuda")
    parents = torch.randint(0, beam, (batch, beam), device="cuda")
    for position in (0, 1, 8):
        table = ancestors_of(batch * beam, beam, 12, position)
        arguments = (
            tokens,
            parents,
            on_gpu(position),
            embedding,
            positions if has_positions else None,
        )
        check("embed_step", *arguments, 3.5, table, written=(), dtype=dtype)
        tables = table.clone(), table.clone()
        torch.ops.lite.embed_step(*arguments, 3.5, tables[0])
        reference_ops.embed_step(*arguments, 3.5, tables[1])
        assert tables[0].equal(tables[1])


@pytest.mark.parametrize(
    ("dtype", "batch", "beam", "vocab"),
    [
        (torch.float32, 1, 1, 40),
        (torch.float32, 5, 4, 512),
        (torch.float32, 37, 5, 8000),
        (torch.float32, 3, 16, 10001),
        (torch.float16, 130, 3, 200),
        (torch.bfloat16, 5, 4, 200),
    ],
)
def test_choose_step(dtype, batch, beam, vocab):
    """A whole search, step by step, against the search in PyTorch from the same state.

    The order of candidates with nearly equal scores is open, so the chosen ones must have the scores that the
    search in PyTorch finds.
    """
    device = torch.device("cuda")
    options = SearchOptions(beam=beam, max_len_b=6, min_len=2, unk_penalty=0.5)
    ours, expected = (kind(batch, vocab, 8, options, device) for kind in (FusedSearch, Search))
    sentences = torch.arange(batch, device=device)[:, None]
    generator = torch.Generator("cuda").manual_seed(0)
    for step in range(9):
        # all logits of a row differ, also in 16 bits
        noise = torch.rand((batch, beam, vocab), device=device, generator=generator)
        order = noise.argsort(-1).argsort(-1)
        logits = (order / 16 if vocab <= 256 else 6 * noise).to(dtype)
        logits[..., 2] = logits.amax(-1) + 1 + 2 * (step % 2)  # many hypotheses end
        for name, value in vars(expected).items():
            if isinstance(value, torch.Tensor):
                value.copy_(getattr(ours, name))
        logprobs = logits.float().log_softmax(-1)
        kind = expected._kinds[step]
        scores = logprobs + expected._forbidden[kind] + expected._totals[..., None]
        ours.advance(logits)
        expected.advance(logprobs)
        for name in ("step", "done", "_count"):
            assert getattr(ours, name).equal(getattr(expected, name)), (step, name)
        for name in ("_totals", "_past_totals"):
            close(getattr(ours, name), getattr(expected, name))
        close(ours._end_total[:, :beam], expected._end_total[:, :beam])
        close(ours._totals, scores[sentences, ours.parents, ours.tokens])
        chosen = ours.parents * vocab + ours.tokens
        assert all(len(row.unique()) == beam for row in chosen)
        assert ours._past_tokens[step].equal(ours.tokens)
        assert ours._past_parents[step].equal(ours.parents)
        assert not ours._counters.any()
    assert ours.done
    assert (ours._end_at[:, :beam] // beam <= 8).all()


def close(actual, exact):
    torch.testing.assert_close(actual, exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: load_checkpoint(find_model("demo-ar", "nothing-trained-here").checkpoint).model,
        lambda: of_architecture("transformer_multibranch_v2", conv_linear=True),
        lambda: of_architecture("transformer", decoder_normalize_before=True),
    ],
)
@pytest.mark.parametrize("beam", [1, 4])
@torch.no_grad()
def test_a_captured_search_is_the_search(make, beam):
    model = make().cuda().eval()
    assert why_not(model, torch.float32) is None
    ours, decoder = graphed_search(model, "fp32"), IncrementalDecoder.of(model)
    options = SearchOptions(beam=beam, max_len_a=0, max_len_b=40, min_len=34)
    for batch in (3, 5, 3):
        src_tokens = torch.randint(4, 40, (batch, 9), generator=torch.manual_seed(batch)).cuda()
        found, expected = ours(src_tokens, options), search(decoder, src_tokens, options)
        np.testing.assert_array_equal(found.counts, expected.counts)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
