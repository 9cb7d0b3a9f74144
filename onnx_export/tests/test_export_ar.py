"""A search over the encoder and the step in ONNX Runtime gives the same as the network in PyTorch."""

import shutil
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from onnx_export import export, export_ar, verify, verify_ar
from onnx_export.paths import half_path
from onnx_export.step_session import StepSession
from train_model.models.beam_search import beam_search
from train_model.models.checkpoint import load_checkpoint
from train_model.models.hypotheses import SearchOptions
from train_model.models.incremental import IncrementalDecoder
from train_model.tests.networks import network

CHECKPOINT = Path(export.__file__).parents[1] / "train_model/tests/fixtures/checkpoint_ar.pt"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("ar") / "model.onnx"
    assert export.main(["--checkpoint", str(CHECKPOINT), "--output", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def model():
    return load_checkpoint(CHECKPOINT).model


@pytest.fixture(scope="module")
def decoder(path, model):
    """Return the search on the host over the two files, made from their paths alone."""
    encoder, step = map(onnxruntime.InferenceSession, (half_path(path, "encoder"), path))

    def encode(src_tokens):
        return [torch.from_numpy(a) for a in encoder.run(None, {"src_tokens": src_tokens.numpy()})]

    def take(tokens, parents, position, source, state):
        tensors = [tokens, parents, position, *source, *state]
        names = [item.name for item in step.get_inputs()]
        feeds = {name: t.numpy() for name, t in zip(names, tensors, strict=True)}
        logprobs, *new_state = map(torch.from_numpy, step.run(None, feeds))
        return logprobs, new_state

    shapes = model.decoder.state_shapes
    size = model.config.tgt_vocab
    return IncrementalDecoder(encode, take, lambda *n: list(shapes(*n).values()), size, 1024)


def sources(batch, length, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, 200, (batch, length), generator=generator)
    for row in tokens[1:]:
        row[: int(torch.randint(0, length, (1,), generator=generator))] = 1
    tokens[:, -1] = 2
    return tokens


@pytest.mark.parametrize(
    ("batch", "length", "beam"), [(1, 1, 1), (1, 9, 4), (2, 5, 1), (3, 14, 4), (5, 40, 3)]
)
def test_hypotheses_are_those_of_pytorch(decoder, model, batch, length, beam):
    source = sources(batch, length, seed=batch)
    options = SearchOptions(beam=beam, max_len_a=1.0, max_len_b=5, len_penalty=0.6)
    found = beam_search(decoder, source, options)
    expected = beam_search(IncrementalDecoder.of(model), source, options)
    for ours, theirs in zip(found, expected, strict=True):
        assert [h.tokens.tolist() for h in ours] == [h.tokens.tolist() for h in theirs]
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(
                one.positional_scores, other.positional_scores, rtol=0, atol=1e-4
            )


def test_verify_agrees_and_finds_a_wrong_weight(path, tmp_path, capsys):
    arguments = ["--checkpoint", str(CHECKPOINT), "--onnx"]
    assert verify.main([*arguments, str(path)]) == 0
    assert "10 of 10 batches agree" in capsys.readouterr().out
    wrong = onnx.load(path)
    weight = next(w for w in wrong.graph.initializer if w.name == "decoder.layers.1.fc1.bias")
    values = onnx.numpy_helper.to_array(weight) + 0.1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(wrong, tmp_path / "model.onnx")
    shutil.copy(half_path(path, "encoder"), tmp_path)
    assert verify.main([*arguments, str(tmp_path / "model.onnx")]) == 1


@pytest.mark.parametrize(
    "variant",
    [
        "three branches",
        pytest.param("lightweight", marks=pytest.mark.slow),
        pytest.param("bare lightweight", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_branch_is_exported(variant, tmp_path):
    model = network(variant)
    export_ar.write(model, tmp_path / "model.onnx")
    checks = list(verify_ar.verify(model, StepSession(tmp_path / "model.onnx", threads=1)))
    assert len(checks) == 10
    assert all(check.good for check in checks)


def test_the_state_is_named_and_every_next_is_an_input(path):
    step = onnx.load(path)
    inputs = [item.name for item in step.graph.input]
    outputs = [item.name for item in step.graph.output]
    state = [name for name in inputs if name.startswith("layers.")]
    assert inputs[:3] == ["tokens", "parents", "position"]
    assert outputs == ["logprobs", *(f"next.{name}" for name in state)]
    encoder = onnx.load(half_path(path, "encoder"))
    assert [item.name for item in encoder.graph.output] == [n for n in inputs if "source." in n]
    assert {f.name for f in encoder.functions} == {"LiteDynamicConv"}
    assert not step.functions


def test_the_files_say_what_they_are(path):
    for file, half in ((path, "step"), (half_path(path, "encoder"), "encoder")):
        metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
        assert metadata["architecture"] == "transformer_multibranch_v2"
        assert metadata["half"] == half
        assert metadata["padding_policy"] == "upstream"
