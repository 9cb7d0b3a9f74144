"""CUDA graphs of every architecture in the registry; of those without kernels of ours, on the CPU too."""

import numpy as np
import pytest
import torch

from train_model.model_folder import ModelFolder
from train_model.models.architectures import ARCHITECTURES
from train_model.models.checkpoint import save_checkpoint
from train_model.ops import load_cuda_library
from train_model.tests.networks import of_architecture
from trt_code.cuda_graph.plain import PlainNetwork
from trt_code.runners import Runner, create
from trt_code.text.batching import pad

ONE_PASS = [name for name, entry in ARCHITECTURES.items() if entry.family == "one-pass"]
# The least share of tokens equal to PyTorch in FP32.
SHARES = {"fp32": 1.0, "tf32": 0.95, "fp16": 0.95, "bf16": 0.8}
BATCHES = [
    pad([[0, *range(4, 12), 2], [0, 9, 2], [0, 30, 31, 32, 2]]),
    pad([[0, 7, 8, 2]]),
    pad([[0, *range(size, 4, -1), 2] for size in (33, 12, 7, 6, 20)]),
]


@pytest.mark.parametrize("name", ONE_PASS)
@torch.inference_mode()
def test_the_plain_network_is_the_network(name):
    model = of_architecture(name)
    src_tokens = torch.from_numpy(BATCHES[2])
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


@pytest.fixture(params=ARCHITECTURES, scope="module")
def files(request, tmp_path_factory) -> ModelFolder:
    model = of_architecture(request.param)
    path = tmp_path_factory.mktemp(request.param) / "checkpoint.pt"
    save_checkpoint(path, model, model.config)
    return ModelFolder(request.param, path, architecture=request.param)


def equal_share(runner: Runner, reference: Runner) -> float:
    """Return the share of equal tokens over all batches, the second time a batch is run."""
    same = total = 0
    for src_tokens in BATCHES:
        expected = reference.run(src_tokens).tokens
        runner.run(src_tokens)
        output = runner.run(src_tokens)
        assert np.isfinite(output.scores).all()
        width = max(expected.shape[1], output.tokens.shape[1])
        tokens, expected = (
            np.pad(x, ((0, 0), (0, width - x.shape[1])), constant_values=1)
            for x in (output.tokens, expected)
        )
        real = (tokens != 1) | (expected != 1)
        same, total = same + (tokens == expected)[real].sum(), total + real.sum()
    return same / total


@pytest.mark.gpu
@pytest.mark.parametrize("precision", SHARES)
def test_cuda_graphs_of_every_network(files, precision):
    if files.architecture == "conv_crf_transformer" and not load_cuda_library():
        pytest.skip("the CUDA operators are not built")
    with (
        create("torch", files, "fp32", "cpu") as reference,
        create("cuda-graph", files, precision, "cuda") as runner,
    ):
        assert equal_share(runner, reference) >= SHARES[precision]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_pytorch_on_a_gpu_of_every_network(files, precision):
    with (
        create("torch", files, "fp32", "cpu") as reference,
        create("torch", files, precision, "cuda") as runner,
    ):
        assert equal_share(runner, reference) >= SHARES[precision]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_low_precision_of_every_network(files, precision):
    """The shares that the GPU's tests ask for are those of PyTorch on the CPU."""
    with (
        create("torch", files, "fp32", "cpu") as reference,
        create("torch", files, precision, "cpu") as runner,
    ):
        assert equal_share(runner, reference) >= SHARES[precision]
