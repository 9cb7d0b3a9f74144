"""Buckets, canvases and the graphs that are kept, on the CPU: a replay runs the function again."""

import contextlib
import types

import numpy as np
import pytest
import torch
from torch.utils import _pytree

from train_model.tests.networks import small
from trt_code.cuda_graph import graphs
from trt_code.cuda_graph.graphs import GraphedNetwork
from trt_code.cuda_graph.plain import PlainNetwork

CPU = torch.device("cpu")


class Replayed:
    """As a CUDA graph, writes to the memory of the first run."""

    def __init__(self, function, *_):
        self._function, self._result = function, function()

    def replay(self):
        pairs = zip(*map(tensors, (self._result, self._function())), strict=True)
        for fixed, new in pairs:
            fixed.copy_(new)
        return self._result


class Network(PlainNetwork):
    """As the fused network, leaves arbitrary values after a sentence's end."""

    def decode(self, source, width):
        tokens, scores = super().decode(source, width)
        behind = torch.arange(width) >= source.lengths[:, None]
        return tokens.masked_fill(behind, 7), scores.masked_fill(behind, 5)


def tensors(result):
    """Yield the tensors in tuples and objects."""
    for leaf in _pytree.tree_leaves(result):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__"):
            yield from tensors(vars(leaf))


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *sizes, pin_memory=False, **o: empty(*sizes, **o))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    stream = types.SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(graphs, "own_stream", lambda owner, device: stream)
    monkeypatch.setattr(graphs, "capture", Replayed)


@pytest.fixture(scope="module")
def model():
    return small()


def batches(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        rows = np.full((rng.integers(1, 20), rng.integers(3, 12)), 1, np.int64)
        for row in rows:
            length = rng.integers(3, len(row) + 1)
            row[:length] = [0, *rng.integers(4, 40, length - 2), 2]
        yield rows


def check(network, model, src_tokens):
    tokens, scores = network(src_tokens)
    with torch.no_grad():
        expected, expected_scores = model(torch.from_numpy(src_tokens))
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_allclose(scores, expected_scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("canvas", ["cut", "full"])
def test_every_batch_has_the_networks_tokens(model, canvas):
    network = GraphedNetwork(Network(model, torch.float32, CPU), CPU, canvas, capacity=5)
    twin = network.twin()
    for src_tokens in batches(12):
        check(network, model, src_tokens)
        check(twin, model, src_tokens)
    assert twin._network is network._network
    assert len(network._graphs) <= 5
    assert not {*map(id, network._graphs.values())} & {*map(id, twin._graphs.values())}


def test_the_first_candidate_is_the_translation(model):
    network = GraphedNetwork(Network(model, torch.float32, CPU), CPU)
    for src_tokens in batches(3):
        tokens, _ = network(src_tokens)
        found = network.candidates(src_tokens, 3)
        for row, best, length in zip(tokens, found.tokens[:, 0], found.lengths[:, 0], strict=True):
            np.testing.assert_array_equal(row[1 : length + 1], best[:length])
        check(network, model, src_tokens)  # which did not keep the other lengths
