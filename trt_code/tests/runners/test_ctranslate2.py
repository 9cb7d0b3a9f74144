"""CTranslate2's runner gives the translations of PyTorch, and refuses networks that it cannot convert."""

import sys

import numpy as np
import pytest
import torch

from train_model.data.dictionary import BOS, EOS, PAD
from train_model.model_folder import ModelFolder
from train_model.models.checkpoint import save_checkpoint
from train_model.tests.networks import of_architecture
from trt_code.runners import Unavailable, create
from trt_code.text import batching


def model(folder, architecture, ends=0.0, **changes):
    """A model with random weights; a larger ``ends`` makes its translations shorter."""
    network = of_architecture(architecture, **changes)
    decoder = network.decoder
    norm = decoder.layer_norm or decoder.layers[-1].final_layer_norm
    with torch.no_grad():
        norm.bias.fill_(0.1)
        decoder.output_projection.weight[EOS] += ends
        decoder.output_projection.weight[PAD] -= 2  # which CTranslate2 would allow in a translation
    save_checkpoint(folder / "checkpoint.pt", network, network.config)
    return ModelFolder("small", folder / "checkpoint.pt", architecture=architecture)


def sources(count=9):
    generator = np.random.default_rng(1)
    rows = [[BOS, *generator.integers(4, 40, n), EOS] for n in generator.integers(1, 12, count)]
    return batching.pad(rows)


POST_NORM = {"encoder_normalize_before": False, "decoder_normalize_before": False}
ATTENTION = {"encoder_branch_type": ("attn:1:32:4",), "decoder_branch_type": ("attn:1:32:4",)}


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize(
    ("architecture", "ends", "changes"),
    [
        ("transformer", 0.3, {}),
        ("transformer", 0.7, POST_NORM),
        ("transformer_multibranch_v2", 0.6, ATTENTION),
    ],
    ids=["pre-norm", "post-norm", "attention as the only branch"],
)
def test_translations_and_scores_are_those_of_pytorch(architecture, ends, changes, beam, tmp_path):
    pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed")
    files = model(tmp_path, architecture, ends, **changes)
    found = {}
    for name in ("torch", "ctranslate2"):
        with create(name, files, "fp32", "cpu", threads=1, beam=beam, len_penalty=0.6) as runner:
            found[name] = runner.candidates(sources(), 1)
    ours, theirs = found["torch"], found["ctranslate2"]
    # CTranslate2 does not end a hypothesis at the last position, and drops such long hypotheses earlier
    ended = ours.lengths[:, 0] < 20
    assert ended.sum() > 3
    assert len({tuple(row) for row in ours.tokens[ended, 0].tolist()}) > 1
    assert (ours.lengths[ended] == theirs.lengths[ended]).all()
    width = ours.lengths[ended].max()
    assert (ours.tokens[ended, :, :width] == theirs.tokens[ended, :, :width]).all()
    # CTranslate2 forbids eos as the first token before the softmax; fairseq and this project do so after it
    np.testing.assert_allclose(theirs.scores[ended], ours.scores[ended], atol=0.2)


def test_a_convolution_is_refused(tmp_path):
    pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed")
    with pytest.raises(Unavailable, match="no convolutions over time"):
        create("ctranslate2", model(tmp_path, "transformer_multibranch_v2"), "fp32", "cpu")


def test_the_message_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(Unavailable, match=r"pip install 'lite-transformer-trt\[rivals\]'"):
        create("ctranslate2", model(tmp_path, "transformer"), "fp32", "cpu")
