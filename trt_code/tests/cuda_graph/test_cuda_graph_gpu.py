"""The CUDA-graph network compared with the plain one: random batches, both canvases, threads, errors."""

import threading

import numpy as np
import pytest
import torch

from train_model.ops import load_cuda_library
from trt_code.cuda_graph.graphs import GraphedNetwork
from trt_code.cuda_graph.network import FusedNetwork
from trt_code.tests.cuda_graph.networks import ONE_KERNEL, model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
    pytest.mark.skipif(not load_cuda_library(), reason="the CUDA operators are not built"),
]


def batch(rng, most_rows=20, most_tokens=20, vocab=40):
    lengths = rng.integers(1, most_tokens + 1, rng.integers(1, most_rows + 1))
    rows = np.full((len(lengths), lengths.max()), 1, dtype=np.int64)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = rng.integers(4, vocab, length)
    return rows


def graphed(plain, dtype=torch.float32, canvas="cut", **options):
    device = torch.device("cuda")
    return GraphedNetwork(FusedNetwork(plain, dtype, device), device, canvas, **options)


@torch.no_grad()
def agreement(network, plain, batches):
    """Return the share of equal tokens, and the largest difference of scores among sentences that agree."""
    same = total = 0
    worst = 0.0
    for src_tokens in batches:
        tokens, scores = network(src_tokens)
        expected, expected_scores = (x.numpy() for x in plain(torch.from_numpy(src_tokens)))
        assert tokens.shape == expected.shape
        equal = tokens == expected
        same, total = same + equal.sum(), total + equal.size
        rows = equal.all(1)
        worst = max(worst, np.abs(scores - expected_scores)[rows].max(initial=0))
    return same / total, worst


@pytest.mark.parametrize("canvas", ["cut", "full"])
@pytest.mark.parametrize("options", [{}, {"padding_policy": "upstream"}])
def test_fp32_gives_the_plain_networks_tokens(canvas, options):
    plain = model(**options)
    rng = np.random.default_rng(0)
    share, worst = agreement(graphed(plain, canvas=canvas), plain, [batch(rng) for _ in range(40)])
    assert share == 1
    assert worst < 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_come_close(dtype):
    plain = model()
    rng = np.random.default_rng(1)
    share, _ = agreement(graphed(plain, dtype), plain, [batch(rng) for _ in range(20)])
    assert share > (0.97 if dtype == torch.float16 else 0.85)


@pytest.mark.parametrize("canvas", ["cut", "full"])
@pytest.mark.parametrize("options", [{}, {"padding_policy": "upstream"}])
def test_all_layers_in_one_kernel_come_close(canvas, options):
    plain = model(**ONE_KERNEL, **options)
    network = graphed(plain, torch.float16, canvas)
    assert network._network.encoder_stack is not None
    assert network._network.decoder_stack is not None
    rng = np.random.default_rng(7)
    share, _ = agreement(network, plain, [batch(rng) for _ in range(20)])
    assert share > 0.97


@pytest.mark.parametrize("options", [{}, ONE_KERNEL])
def test_the_cut_canvas_is_the_full_one_at_the_real_positions(options):
    plain = model(**options)
    cut, full = graphed(plain, torch.float16), graphed(plain, torch.float16, "full")
    rng = np.random.default_rng(2)
    for _ in range(1000):
        src_tokens = batch(rng)
        for a, b in zip(cut(src_tokens), full(src_tokens), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-2)


def test_graphs_are_dropped_and_made_again():
    plain = model()
    network = graphed(plain, capacity=3)
    rng = np.random.default_rng(3)
    share, _ = agreement(network, plain, [batch(rng) for _ in range(30)])
    assert share == 1


def test_threads_take_turns():
    plain = model()
    network = graphed(plain)
    rng = np.random.default_rng(4)
    batches = [batch(rng) for _ in range(8)]
    expected = [network(src_tokens)[0] for src_tokens in batches]
    wrong = []

    def work(offset):
        for i in range(40):
            index = (i + offset) % len(batches)
            if not np.array_equal(network(batches[index])[0], expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_twin_captures_and_translates_at_the_same_time():
    network = graphed(model())
    twin = network.twin()
    rng = np.random.default_rng(5)
    batches = [batch(rng) for _ in range(12)]
    found = {}

    def work(name, runs):
        found[name] = [runs(src_tokens)[0] for _ in range(3) for src_tokens in batches]

    threads = [
        threading.Thread(target=work, args=arguments)
        for arguments in (("first", network), ("second", twin))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [network(src_tokens)[0] for src_tokens in batches] * 3
    for name in ("first", "second"):
        assert all(map(np.array_equal, found[name], expected)), name


def test_it_continues_after_an_error():
    plain = model()
    network = graphed(plain)
    with pytest.raises(ValueError, match="positions for 20"):
        network(np.full((2, 99), 5))
    rng = np.random.default_rng(5)
    share, _ = agreement(network, plain, [batch(rng) for _ in range(4)])
    assert share == 1


def test_memory_stays_constant_once_every_shape_has_run():
    network = graphed(model(), torch.float16)
    rng = np.random.default_rng(6)
    batches = [batch(rng) for _ in range(50)]
    for src_tokens in batches:
        network(src_tokens)
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        for src_tokens in batches:
            network(src_tokens)
    assert torch.cuda.memory_allocated() == before
