"""The runners of autoregressive networks agree with each other and keep to the runners' interface."""

from pathlib import Path

import numpy as np
import pytest

from onnx_export import export
from train_model.cli import UserError
from train_model.data.tokenizer import Tokenizer
from train_model.model_folder import ModelFolder, find_model
from trt_code.evaluate import read_split
from trt_code.runners import Unavailable, create
from trt_code.text.batching import pad

FIXTURES = Path(export.__file__).parents[1] / "train_model" / "tests" / "fixtures"
FILES = ModelFolder(
    "small-ar", FIXTURES / "checkpoint_ar.pt", architecture="transformer_multibranch_v2"
)


@pytest.fixture(scope="module")
def build_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    output = folder / FILES.name / "model.onnx"
    export.main(["--checkpoint", str(FILES.checkpoint), "--output", str(output)])
    return folder


@pytest.fixture(scope="module")
def batch():
    with np.load(FIXTURES / "ar_io.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", ["torch", "ort"])
def test_a_runner_gives_the_originals_best_hypothesis(name, build_dir, batch):
    source = batch["b1.src_tokens"]
    with create(name, FILES, "fp32", "cpu", build_dir=build_dir, beam=4, len_penalty=0.6) as runner:
        output = runner.run(source)
        assert runner.max_source == 1024
        assert runner.peak_memory() >= 0
    lengths = batch["b1.beam4_lenpen0.6_lengths"][:, 0]
    assert output.tokens.shape == output.scores.shape == (len(source), 1 + lengths.max())
    for row, length in enumerate(lengths):
        expected = batch["b1.beam4_lenpen0.6_tokens"][row, 0, :length]
        assert output.tokens[row].tolist() == [0, *expected, *[1] * (lengths.max() - length)]
        scores = batch["b1.beam4_lenpen0.6_positional_scores"][row, 0, :length]
        np.testing.assert_allclose(output.scores[row, 1 : 1 + length], scores, atol=1e-4)


def test_a_bos_in_front_of_the_source_changes_nothing(batch):
    """The tokenizer adds one for networks that were trained with it."""
    source = batch["b0.src_tokens"]
    with create("torch", FILES, "fp32", "cpu", beam=1) as runner:
        assert runner.config.src_vocab == 200  # bench draws its random sources from it
        bare = runner.run(source)
        with_bos = runner.run(np.pad(source, ((0, 0), (1, 0))))
    assert (bare.tokens == with_bos.tokens).all()


def test_low_precision_runs(batch):
    with create("torch", FILES, "bf16", "cpu", beam=2) as runner:
        assert runner.run(batch["b0.src_tokens"]).tokens[0, 0] == 0


@pytest.mark.parametrize("beam", [0, -1, 1024])
def test_a_beam_that_does_not_fit_is_one_line(batch, beam):
    with (
        pytest.raises(UserError, match=r"does not fit a vocabulary of|beam is from 1 to"),
        create("torch", FILES, "fp32", "cpu", beam=beam) as runner,
    ):
        runner.run(batch["b0.src_tokens"])


def test_missing_files_are_reported(tmp_path, build_dir):
    with pytest.raises(Unavailable, match="has not been built"):
        create("ort", FILES, "fp32", "cpu", build_dir=tmp_path)
    with pytest.raises(Unavailable, match="fp32 and int8 on the CPU"):
        create("ort", FILES, "fp16", "cpu", build_dir=build_dir)
    with pytest.raises(Unavailable, match="trt-split does not run autoregressive networks"):
        create("trt-split", FILES, "fp16", "cuda", build_dir=build_dir)


def test_a_file_of_another_network_is_refused(tmp_path, build_dir):
    folder = tmp_path / FILES.name
    folder.mkdir()
    encoder = (build_dir / FILES.name / "model.encoder.onnx").read_bytes()
    for name in ("model.onnx", "model.encoder.onnx"):
        (folder / name).write_bytes(encoder)
    with pytest.raises(UserError, match="is not the step of an autoregressive network"):
        create("ort", FILES, "fp32", "cpu", build_dir=tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["torch", "cuda-graph"])
def test_a_gpu_finds_the_originals_best_hypothesis(name, batch):
    """Runs the batch twice, with another shape in between; the second run only replays graphs."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    lengths = batch["b1.beam4_lenpen0.6_lengths"][:, 0]
    with create(name, FILES, "fp32", "cuda", beam=4, len_penalty=0.6) as runner:
        for batch_name in ("b1", "b0", "b1"):
            output = runner.run(batch[f"{batch_name}.src_tokens"])
    for row, length in enumerate(lengths):
        expected = batch["b1.beam4_lenpen0.6_tokens"][row, 0, :length]
        assert output.tokens[row, 1 : 1 + length].tolist() == expected.tolist()
        scores = batch["b1.beam4_lenpen0.6_positional_scores"][row, 0, :length]
        np.testing.assert_allclose(output.scores[row, 1 : 1 + length], scores, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "beam", "share"),
    [("fp32", 1, 1.0), ("fp32", 4, 1.0), ("tf32", 1, 0.95), ("fp16", 1, 0.95), ("bf16", 4, 0.8)],
)
def test_graphs_find_what_the_network_finds(precision, beam, share, monkeypatch):
    """Real sentences, which the graphs pad to few widths, in batches of changing sizes; only a few graphs are
    kept, so that some are captured again."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    from trt_code.runners.search import graphed_search

    monkeypatch.setattr(graphed_search, "CAPACITY", 2)
    files = find_model("demo-ar", "nothing-trained-here")
    tokenizer = Tokenizer.from_files(files)
    rows = [tokenizer.encode(line) for line in read_split(files, "test")[0][:60]]
    sizes = [1, 3, 8, 1, 3, 32, 12]
    batches = [pad(rows[sum(sizes[:i]) :][:size]) for i, size in enumerate(sizes)]
    same = []
    with (
        create("cuda-graph", files, precision, "cuda", beam=beam) as graphs,
        create("torch", files, "fp32", "cpu", beam=beam) as network,
    ):
        for batch in batches:
            ours, expected = graphs.run(batch), network.run(batch)
            width = max(ours.tokens.shape[1], expected.tokens.shape[1])
            wide = [pad([*map(list, output.tokens)], width) for output in (ours, expected)]
            same += (wide[0] == wide[1]).all(1).tolist()
            if precision == "fp32":
                np.testing.assert_allclose(ours.scores, expected.scores, atol=1e-3)
    assert np.mean(same) >= share
