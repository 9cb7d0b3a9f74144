"""The network that CUDA graphs capture where our kernels do not fit, on the CPU.

``trt_code/tests/networks`` runs the graphs of every architecture on a GPU.
"""

import pytest
import torch

from train_model.models.architectures import ARCHITECTURES
from train_model.tests.networks import of_architecture
from trt_code.cuda_graph.plain import PlainNetwork
from trt_code.text.batching import pad

ONE_PASS = [name for name, entry in ARCHITECTURES.items() if entry.family == "one-pass"]
SOURCES = pad([[0, *range(size, 4, -1), 2] for size in (33, 12, 7, 6, 20)])


@pytest.mark.parametrize("name", ONE_PASS)
@torch.inference_mode()
def test_the_plain_network_is_the_network(name):
    model = of_architecture(name)
    src_tokens = torch.from_numpy(SOURCES)
    width = model.canvas_width(src_tokens.shape[1])
    expected, expected_scores = model(src_tokens)
    network = PlainNetwork(model, torch.float32, torch.device("cpu"))
    rows = torch.cat([src_tokens, torch.ones_like(src_tokens)])  # a batch is filled with padding
    tokens, scores, lengths = network.translate(rows, torch.full((len(rows),), width), width)
    predicted = model.predict_length(model.encode(src_tokens)).clamp(max=width)
    assert lengths[: len(expected)].equal(predicted)
    assert tokens[: len(expected)].equal(expected)
    torch.testing.assert_close(scores[: len(expected)], expected_scores, rtol=0, atol=1e-4)
    assert scores.isfinite().all()
