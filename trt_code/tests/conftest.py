"""Fixtures of all tests here: a small network with random weights, its text files and its exported graph."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from train_model.data.dictionary import Dictionary
from train_model.data.text import TextOptions
from train_model.model_folder import ModelFolder
from train_model.models.checkpoint import save_checkpoint
from train_model.models.conv_crf_transformer import ConvCrfTransformer
from train_model.models.one_pass import LENGTH_OFFSET
from train_model.tests.networks import one_pass
from trt_code.tests.tiny import SENTENCES, WORDS, merges

MODEL_YAML = """\
architecture: conv_crf_transformer
checkpoint: checkpoint.pt
source_language: en
target_language: de
source_dictionary: dict.txt
target_dictionary: dict.txt
text:
  subwords: bpe
  codes: bpe.codes
summary: random weights
"""


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """Make a model named ``tiny`` of 24 positions, with the same source and target language.

    A translation is as long as its source, so that no canvas cuts it; its words are random.
    """
    folder = tmp_path_factory.mktemp("tiny")
    files = ModelFolder(
        name="tiny",
        checkpoint=folder / "checkpoint.pt",
        src_dict=folder / "dict.txt",
        tgt_dict=folder / "dict.txt",
        text=TextOptions(codes=folder / "bpe.codes"),
        test_src=folder / "test.en",
        test_tgt=folder / "test.de",
    )
    letters = sorted(set("".join(WORDS)))
    symbols = [*WORDS, *letters, *(letter + "@@" for letter in letters)]
    dictionary = Dictionary.from_frequencies(dict.fromkeys(symbols, 1))
    dictionary.save(files.src_dict)
    files.text.codes.write_text("#version: 0.2\n" + "".join(merges()), encoding="utf-8")
    for path in (files.test_src, files.test_tgt):
        path.write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    config = one_pass(
        src_vocab=len(dictionary),
        tgt_vocab=len(dictionary),
        encoder_embed_dim=16,
        encoder_ffn_embed_dim=32,
        encoder_kernel_size_list=(3, 5),
        decoder_kernel_size_list=(3, 5),
        max_source_positions=24,
        max_target_positions=40,
        crf_beam_approx=8,
        pred_length_offset=True,
    )
    torch.manual_seed(3)
    model = ConvCrfTransformer(config)
    with torch.no_grad():  # one class gets a sum over the encoder's output that is never negative
        model.encoder.layers[-1].layer_norms[1].bias.fill_(1)
        model.decoder.embed_length.weight.zero_()[LENGTH_OFFSET] = 1
    save_checkpoint(files.checkpoint, model, config)
    return files


@pytest.fixture(scope="session")
def tiny_folder(tiny_files: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make ``tiny`` a model folder, which programs find by its path."""
    folder = shutil.copytree(tiny_files.checkpoint.parent, tmp_path_factory.mktemp("m") / "tiny")
    (folder / "model.yaml").write_text(MODEL_YAML)
    return folder


@pytest.fixture(scope="session")
def tiny_build(tiny_files: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder with the exported graph of ``tiny`` in it."""
    from onnx_export.export import main

    folder = tmp_path_factory.mktemp("build")
    output = folder / tiny_files.name / "model.onnx"
    main(["--checkpoint", str(tiny_files.checkpoint), "--output", str(output)])
    return folder


@pytest.fixture(scope="session")
def tiny_halves(tiny_files: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder with ``tiny`` exported as two files. Tests that write into it use a copy."""
    from onnx_export.export import main

    folder = tmp_path_factory.mktemp("halves")
    output = folder / tiny_files.name / "model.onnx"
    main(["--checkpoint", str(tiny_files.checkpoint), "--output", str(output), "--split"])
    return folder


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch, tiny_files: ModelFolder) -> None:
    """Lets the command lines find ``--model tiny``, and ``mute``, which has no text."""
    mute = dataclasses.replace(tiny_files, name="mute", text=None, test_src=None, test_tgt=None)
    known = {"tiny": tiny_files, "mute": mute}
    for module in ("bench", "evaluate", "translate"):
        monkeypatch.setattr(f"trt_code.{module}.find_model", lambda name, build_dir: known[name])
