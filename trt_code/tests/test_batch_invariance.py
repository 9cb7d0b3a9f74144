"""Where padding is masked, no runner lets a sentence's neighbours or its padding change what it gives."""

import dataclasses

import numpy as np
import pytest
import torch

from onnx_export import export
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.models.multibranch_config import MultibranchConfig
from train_model.models.transformer_multibranch_v2 import TransformerMultibranch
from train_model.models.zoo import ModelFiles
from trt_code.batching import PAD, pad
from trt_code.runners import create

BATCHES = 12
LONGEST = 12
VOCABULARY = 30  # smaller than either network's, so that one range of words serves both
SCORE_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def one_pass(tiny_files, tmp_path_factory):
    """The small non-autoregressive network with biases; at zero, as they start, they hide a leak."""
    loaded = load_checkpoint(tiny_files.checkpoint)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) / 10)
    return exported("one-pass", loaded.model, loaded.config, tmp_path_factory)


@pytest.fixture(scope="module")
def greedy(tmp_path_factory):
    """A small Lite Transformer, its weights so small that what it says follows its source."""
    config = MultibranchConfig(
        src_vocab=40,
        tgt_vocab=48,
        encoder_branch_type=("attn:1:16:2", "dynamic:default:16:4"),
        decoder_branch_type=("attn:1:16:2", "dynamic:default:16:4"),
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=32,
        encoder_layers=2,
        decoder_ffn_embed_dim=32,
        decoder_layers=2,
        encoder_kernel_size_list=(3, 7),
        decoder_kernel_size_list=(3, 7),
        decoder_attention_heads=2,
        conv_linear=True,
        max_source_positions=24,
        max_target_positions=16,
        padding_policy="masked",
    )
    torch.manual_seed(5)
    model = TransformerMultibranch(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) / 10)
            else:
                torch.nn.init.normal_(parameter, std=0.15)
    return exported("greedy", model, config, tmp_path_factory, autoregressive=True)


def exported(name, model, config, tmp_path_factory, autoregressive=False):
    """The files of a network and the build folder that holds its graph."""
    folder = tmp_path_factory.mktemp(name)
    files = ModelFiles(name, folder / "checkpoint.pt", autoregressive=autoregressive)
    save_checkpoint(files.checkpoint, model, config)
    output = folder / name / "model.onnx"
    export.main(["--checkpoint", str(files.checkpoint), "--output", str(output)])
    return files, folder


@pytest.mark.parametrize("network", ["one_pass", "greedy"])
@pytest.mark.parametrize("runner_name", ["torch", "ort"])
def test_a_sentence_gives_the_same_alone_and_in_any_company(network, runner_name, request):
    files, folder = request.getfixturevalue(network)
    options = {"threads": 1, "build_dir": folder, "beam": 1}
    with create(runner_name, files, "fp32", "cpu", **options) as runner:
        assert_invariant(runner)


@pytest.mark.parametrize("network", ["one_pass", "greedy"])
def test_the_upstream_policy_lets_padding_in(network, request, tmp_path):
    """The same weights with the original's policy fail the test above (doc/reliability.md)."""
    files, _ = request.getfixturevalue(network)
    loaded = load_checkpoint(files.checkpoint)
    upstream = dataclasses.replace(loaded.config, padding_policy="upstream")
    files = dataclasses.replace(files, checkpoint=tmp_path / "checkpoint.pt")
    save_checkpoint(files.checkpoint, loaded.model, upstream)
    with create("torch", files, "fp32", "cpu", beam=1) as runner, pytest.raises(AssertionError):
        assert_invariant(runner)


def assert_invariant(runner) -> None:
    """Compare every row of random batches with the same sentence alone, without padding.

    A canvas widens with its batch; what is behind the sentence is padding.
    """
    random = np.random.default_rng(7)
    translations = set()
    for _ in range(BATCHES):
        lengths = random.integers(1, LONGEST + 1, size=random.integers(1, 6))
        rows = [[0, *random.integers(4, VOCABULARY, size=length), 2] for length in lengths]
        together = runner.run(pad(rows, width=2 + max(lengths) + random.integers(0, 8)))
        for i, row in enumerate(rows):
            alone = runner.run(pad([row]))
            length = int((alone.tokens[0] != PAD).sum())
            tokens, scores = alone.tokens[0, :length], alone.scores[0, :length]
            translations.add(tuple(tokens))
            np.testing.assert_array_equal(together.tokens[i, :length], tokens)
            assert (together.tokens[i, length:] == PAD).all()
            # a score of the CRF is the difference of two path scores, each rounded at its own size
            rounding = 4 * np.finfo(np.float32).eps * np.abs(scores.cumsum()).max()
            np.testing.assert_allclose(
                together.scores[i, :length], scores, rtol=0, atol=SCORE_TOLERANCE + rounding
            )
    assert len(translations) > BATCHES, "the network says the same whatever it is given"
