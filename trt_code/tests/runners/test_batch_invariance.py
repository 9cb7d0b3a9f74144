"""With masked padding, no runner's result for a sentence depends on its neighbours or its padding."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from onnx_export import export
from train_model.model_folder import ModelFolder
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.tests.networks import follows_its_source, step_by_step
from trt_code import onnx_surgeon
from trt_code.runners import create
from trt_code.stress.batch_neighbours import pairs
from trt_code.text.batching import PAD, pad

BATCHES = 12
LONGEST = 12
VOCABULARY = 30  # smaller than both networks' vocabularies, so that both accept the same words
FP16_SCORE_TOLERANCE = 2e-2


@pytest.fixture(scope="module")
def one_pass(tiny_files, tmp_path_factory):
    """The small one-pass network with random biases: zeros would hide a leak."""
    loaded = load_checkpoint(tiny_files.checkpoint)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) / 10)
    return saved("one-pass", loaded.model, loaded.config, tmp_path_factory)


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """A small Lite Transformer whose weights are small enough for its output to depend on the source."""
    model = follows_its_source(step_by_step(max_source_positions=24, max_target_positions=16))
    return saved("search", model, model.config, tmp_path_factory)


def saved(name, model, config, tmp_path_factory):
    files = ModelFolder(
        name, tmp_path_factory.mktemp(name) / "checkpoint.pt", architecture=config.architecture
    )
    save_checkpoint(files.checkpoint, model, config)
    return files


@pytest.fixture(scope="module")
def build_dir(one_pass, search, tmp_path_factory):
    """A folder with the graphs of both networks, and for the one-pass network also its halves and FP16."""
    folder = tmp_path_factory.mktemp("build")
    for files in (one_pass, search):
        output = folder / files.name / "model.onnx"
        export.main(["--checkpoint", str(files.checkpoint), "--output", str(output)])
    one_pass_graph = folder / one_pass.name / "model.onnx"
    export.main(
        ["--checkpoint", str(one_pass.checkpoint), "--output", str(one_pass_graph), "--split"]
    )
    patched = one_pass_graph.with_name("model.fp16.onnx")
    onnx_surgeon.main(
        ["--input", str(one_pass_graph), "--output", str(patched), "--precision", "fp16"]
    )
    return folder


def _cells(one_pass: str, search: str) -> list[tuple[str, str, int]]:
    """Return the fixture of the network, the runner and the number of hypotheses of every cell."""
    cells = [("one_pass", runner, 1) for runner in one_pass.split()]
    return cells + [("search", runner, beam) for runner in search.split() for beam in (1, 4)]


ON_CPU = _cells(one_pass="torch ort ort-split", search="torch ort")
IN_FP16_ON_CPU = _cells(one_pass="torch ort", search="torch")
ON_GPU = _cells(one_pass="torch cuda-graph cuda-graph-full", search="torch cuda-graph")


GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]


def cells(on_cpu):
    """Return the cells of ``on_cpu`` and ``ON_GPU`` with their devices."""
    on_gpu = [pytest.param(*cell, "cuda", marks=GPU) for cell in ON_GPU]
    return [(*cell, "cpu") for cell in on_cpu] + on_gpu


@pytest.mark.parametrize(("network", "runner_name", "beam", "device"), cells(ON_CPU))
def test_fp32_gives_the_same_alone_and_in_any_batch(network, runner_name, beam, device, request):
    with made(request, network, runner_name, beam, "fp32", device) as runner:
        assert_invariant(runner)


@pytest.mark.parametrize(("network", "runner_name", "beam", "device"), cells(IN_FP16_ON_CPU))
def test_fp16_gives_nearly_the_same_in_any_batch(network, runner_name, beam, device, request):
    with made(request, network, runner_name, beam, "fp16", device) as runner:
        assert_nearly_invariant(runner)


def made(request, network, runner_name, beam, precision, device):
    """Return the runner of the fixture's checkpoint or graphs."""
    options = {"threads": 1, "beam": beam}
    if runner_name.startswith("ort"):
        options["build_dir"] = request.getfixturevalue("build_dir")
    return create(runner_name, request.getfixturevalue(network), precision, device, **options)


def assert_nearly_invariant(runner):
    """Matrix products are split differently in other batches, and FP16 rounds their results.

    Two words with scores equal up to that rounding may swap; this is rare.
    """
    compared = list(pairs(runner, batches()))
    same = [pair for pair in compared if pair.tokens_agree()]
    worst = max(pair.score_difference() for pair in same)
    print(f"{runner.name}: {len(same)} of {len(compared)} alike, {worst:.2e}")
    assert len(same) >= 0.95 * len(compared)
    assert worst <= FP16_SCORE_TOLERANCE


@pytest.mark.parametrize("network", ["one_pass", "search"])
def test_the_upstream_policy_lets_padding_in(network, request, tmp_path):
    """The same weights with the original's policy fail the test above (doc/reliability.md)."""
    files = request.getfixturevalue(network)
    loaded = load_checkpoint(files.checkpoint)
    upstream = dataclasses.replace(loaded.config, padding_policy="upstream")
    files = dataclasses.replace(files, checkpoint=tmp_path / "checkpoint.pt")
    save_checkpoint(files.checkpoint, loaded.model, upstream)
    with create("torch", files, "fp32", "cpu", beam=1) as runner, pytest.raises(AssertionError):
        assert_invariant(runner)


def batches() -> Iterator[np.ndarray]:
    """Random words in small batches, padded further at random."""
    random = np.random.default_rng(7)
    for _ in range(BATCHES):
        lengths = random.integers(1, LONGEST + 1, size=random.integers(1, 6))
        rows = [[0, *random.integers(4, VOCABULARY, size=length), 2] for length in lengths]
        yield pad(rows, width=2 + max(lengths) + random.integers(0, 8))


def assert_invariant(runner) -> None:
    """Assert equal tokens, and equal scores up to rounding."""
    translations = set()
    for pair in pairs(runner, batches()):
        translations.add(tuple(pair.alone.tokens))
        np.testing.assert_array_equal(pair.together.tokens, pair.alone.tokens)
        assert (pair.behind == PAD).all()
        assert pair.score_difference() <= pair.tolerance()
    assert len(translations) > BATCHES // 2, "the output does not depend on the source"
