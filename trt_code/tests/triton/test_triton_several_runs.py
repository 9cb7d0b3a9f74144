"""Networks that run several times per translation, served by a Python model; Triton is the stand-in."""

import dataclasses

import numpy as np
import pytest
import torch

from onnx_export import export
from train_model.cli import UserError
from train_model.data.dictionary import PAD, Dictionary
from train_model.data.tokenizer import Tokenizer
from train_model.models.architectures import ARCHITECTURES
from train_model.models.checkpoint import save_checkpoint
from train_model.tests.networks import of_architecture
from trt_code.runners import create
from trt_code.tests.tiny import SENTENCES
from trt_code.tests.triton.triton_stand_in import Server, model_config, run_with
from trt_code.triton import repository
from trt_code.triton.networks import LoopNetwork, OnnxNetwork

OPTIONS = {
    "transformer_multibranch_v2": ["--beam", "3", "--lenpen", "0.6"],
    "iterative_nonautoregressive_transformer": ["--iter-decode-max-iter", "2"],
}


@pytest.fixture(scope="module", params=OPTIONS)
def served(request, tiny_files, tmp_path_factory):
    """A small network of each family with ``tiny``'s text: its model folder, build folder and repository."""
    folder = tmp_path_factory.mktemp(request.param)
    words = len(Dictionary.load(tiny_files.src_dict))
    torch.manual_seed(2)
    made = ARCHITECTURES[request.param]
    config = dataclasses.replace(
        of_architecture(request.param).config, src_vocab=words, tgt_vocab=words
    )
    files = dataclasses.replace(
        tiny_files,
        name="several",
        architecture=request.param,
        checkpoint=folder / "checkpoint.pt",
    )
    save_checkpoint(files.checkpoint, made.build(config), config)
    output = folder / "build/several/model.onnx"
    export.main(["--checkpoint", str(files.checkpoint), "--output", str(output)])
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(repository, "find_model", lambda name, build_dir: files)
        flags = ["--build-dir", str(folder / "build"), "--output", str(folder / "triton")]
        repository.main([*flags, "--bucket", "8", *OPTIONS[request.param]])
        with pytest.raises(UserError, match="runs one-pass networks, and this one is"):
            repository.main([*flags, "--backend", "tensorrt"])
        if files.family == "autoregressive":
            most = (words - 1) // 2
            with pytest.raises(UserError, match=f"of {words}; it is at most {most}"):
                repository.main([*flags, "--beam", str(most + 1)])
    return files, folder


def test_served_translations_are_the_runners(served, monkeypatch):
    files, folder = served
    server = Server(folder / "triton/models", monkeypatch)
    tokenizer = Tokenizer.from_files(files)
    rows = list(map(tokenizer.encode, SENTENCES))
    given = {"beam": 3, "len_penalty": 0.6} if files.family == "autoregressive" else {"max_iter": 2}
    expected = [""] * len(rows)
    with create("ort", files, "fp32", "cpu", build_dir=folder / "build", **given) as runner:
        for shortest, longest in ((0, 8), (8, runner.max_source)):
            chosen = [i for i, row in enumerate(rows) if shortest < len(row) <= longest]
            padded = [[*rows[i], *[PAD] * (longest - len(rows[i]))] for i in chosen]
            for i, tokens in zip(chosen, runner.run(np.array(padded)).tokens, strict=True):
                expected[i] = tokenizer.decode(tokens)
    assert server.translate(SENTENCES) == [expected]
    assert len(set(expected)) > 1
    assert len(server.network_shapes) == 2


def test_an_error_is_the_answer_to_its_request(served, monkeypatch):
    server = Server(served[1] / "triton/models", monkeypatch)
    monkeypatch.setattr(server._network, "_run", lambda src_tokens: 1 / 0)
    assert server.translate(["one"]) == ["division by zero"]


def test_a_graph_of_another_family_is_refused(served, tiny_build):
    _, folder = served
    for network, path in (
        (OnnxNetwork, folder / "build/several/model.onnx"),
        (LoopNetwork, tiny_build / "tiny/model.onnx"),
    ):
        with pytest.raises(UserError, match=r"model\.onnx is a graph of another network; make it"):
            network(path)


def test_the_network_is_a_python_model_with_the_modules_that_it_imports(served, tmp_path):
    version = served[1] / "triton/models/lite_network/1"
    config = model_config(version.parent / "config.pbtxt")
    assert config.backend == "python"
    # the folder that Triton adds to the path, without torch
    code = (
        "import sys, types; sys.modules['triton_python_backend_utils'] = types.ModuleType('pb')\n"
        "sys.modules['torch'] = None\n"
        "import model, train_model.cli as cli; print(cli.__file__)"
    )
    reply = run_with(version, code, tmp_path)
    assert reply.stdout.strip() == str(version / "train_model/cli.py"), reply.stderr
