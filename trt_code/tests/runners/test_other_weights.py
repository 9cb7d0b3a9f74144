"""Built files of older weights: every program says which file it is, and how to make it again."""

import argparse
import contextlib
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest

from onnx_export import export
from train_model.cli import UserError
from train_model.model_folder import ModelFolder, find_model
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.models.safetensors_file import save_safetensors
from train_model.origin import digest_of
from train_model.quantization import ptq
from train_model.tests.networks import network
from trt_code import bench, evaluate, onnx_surgeon, translate
from trt_code.measure import forced_length, throughput
from trt_code.native import export as native
from trt_code.runners import Unavailable, create
from trt_code.text.choice import open_runner
from trt_code.text.graphs import cache_folder
from trt_code.triton import repository

TEST = "test: {source: test.en, target: test.de}\n"


@dataclasses.dataclass(frozen=True)
class Built:
    """A model folder and a build folder with everything that is made from its checkpoint."""

    folder: Path
    build: Path

    @property
    def files(self) -> ModelFolder:
        return find_model(str(self.folder), self.build)

    def path(self, name: str) -> Path:
        return self.build / self.files.name / name

    def quantized(self, how: str = "ptq") -> Path:
        return self.build / f"{self.files.name}-{how}" / "checkpoint.pt"

    def refusal(self, path: Path, checkpoint: Path, command: str) -> str:
        return (
            f"{path} is of other weights or options than {checkpoint}: make it again (touch {checkpoint}; "
            f"{command} MODEL={self.folder})"
        )

    def calibrate(self, *options: str) -> None:
        text = ["--text", str(self.folder / "test.en"), "--build-dir", str(self.build)]
        ptq.main(["--model", str(self.folder), *text, *options])


@pytest.fixture(scope="module")
def built(tiny_folder, tmp_path_factory) -> Built:
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("model") / "tiny")
    with (folder / "model.yaml").open("a") as file:
        file.write(TEST)
    made = Built(folder, tmp_path_factory.mktemp("build"))
    checkpoint, model = str(made.files.checkpoint), made.path("model.onnx")
    for split in ([], ["--split"]):
        export.main(["--checkpoint", checkpoint, "--output", str(model), *split])
        patched = ["--output", str(made.path("model.fp16.onnx")), "--precision", "fp16", *split]
        onnx_surgeon.main(["--input", str(model), *patched])
    native.main(
        ["--checkpoint", checkpoint, "--output", str(made.path("model.native.safetensors"))]
    )
    return made


@pytest.fixture(scope="module")
def quantized(built) -> Built:
    """``built`` with the files of the model in INT8."""
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed (make env)")
    built.calibrate()
    checkpoint = str(built.quantized())
    for main, name in (
        (export.main, "model.qdq.onnx"),
        (native.main, "model.qdq.native.safetensors"),
    ):
        main(["--checkpoint", checkpoint, "--output", str(built.path(name))])
    return built


@contextlib.contextmanager
def kept(path: Path) -> Iterator[None]:
    """Restores a file afterwards."""
    content = path.read_bytes()
    try:
        yield
    finally:
        path.write_bytes(content)


def train_on(checkpoint: Path) -> None:
    """Change the weights of a checkpoint as a further training does."""
    loaded = load_checkpoint(checkpoint)
    loaded.model.encoder.layers[0].fc1.bias.data += 1
    save_checkpoint(checkpoint, loaded.model, loaded.config)


@pytest.fixture
def retrained(built) -> Iterator[Built]:
    """``built`` with a checkpoint that is newer than the files."""
    with kept(built.files.checkpoint):
        train_on(built.files.checkpoint)
        yield built


def open_one(built: Built, runner: str, precision: str) -> None:
    create(runner, built.files, precision, "cpu", build_dir=built.build, threads=1).close()


FILES = [
    ("ort", "fp32", "model.onnx", "make onnx"),
    ("ort", "fp16", "model.fp16.onnx", "make patch PRECISION=fp16"),
    ("ort-split", "fp32", "model.decoder.onnx", "make onnx-split"),
    ("ort-split", "fp16", "model.fp16.decoder.onnx", "make patch-split PRECISION=fp16"),
    ("native", "fp32", "model.native.safetensors", "make native"),
]


@pytest.mark.parametrize(("runner", "precision", "name", "command"), FILES)
def test_every_runner(built, request, runner, precision, name, command):
    open_one(built, runner, precision)
    request.getfixturevalue("retrained")
    refusal = built.refusal(built.path(name), built.files.checkpoint, command)
    with pytest.raises(Unavailable, match=re.escape(refusal)):
        open_one(built, runner, precision)
    open_one(built, "torch", precision)  # it reads the checkpoint itself


@pytest.mark.parametrize("runner", ["torch", "ort", "native"])
def test_int8_that_was_calibrated_from_older_weights(quantized, request, runner):
    open_one(quantized, runner, "int8")
    request.getfixturevalue("retrained")
    refusal = quantized.refusal(quantized.quantized(), quantized.files.checkpoint, "make ptq")
    with pytest.raises(Unavailable, match=re.escape(refusal)):
        open_one(quantized, runner, "int8")


@pytest.mark.parametrize(
    ("runner", "name", "command"),
    [
        ("ort", "model.qdq.onnx", "make patch PRECISION=int8"),
        ("native", "model.qdq.native.safetensors", "make native PRECISION=int8"),
    ],
)
def test_int8_of_an_older_calibration(quantized, request, runner, name, command):
    """A file whose quantised checkpoint is gone is compared with the model's own checkpoint."""
    refusal = quantized.refusal(quantized.path(name), quantized.quantized(), command)
    with kept(quantized.quantized()):
        quantized.calibrate("--keep", "*.fc2")
        open_one(quantized, "torch", "int8")
        with pytest.raises(Unavailable, match=re.escape(refusal)):
            open_one(quantized, runner, "int8")
        quantized.quantized().unlink()
        open_one(quantized, runner, "int8")
        request.getfixturevalue("retrained")
        refusal = quantized.refusal(quantized.path(name), quantized.files.checkpoint, command)
        with pytest.raises(Unavailable, match=re.escape(refusal)):
            open_one(quantized, runner, "int8")


def test_a_fine_tuned_checkpoint_belongs_to_the_one_that_was_calibrated(quantized, request):
    tuned = quantized.quantized("qat")
    tuned.parent.mkdir()
    try:
        shutil.copy(quantized.quantized(), tuned)
        train_on(tuned)
        quantized.calibrate("--keep", "*.fc2")  # of the same weights
        open_one(quantized, "torch", "int8")
        request.getfixturevalue("retrained")
        refusal = quantized.refusal(tuned, quantized.files.checkpoint, "make ptq qat")
        with pytest.raises(Unavailable, match=re.escape(refusal)):
            open_one(quantized, "torch", "int8")
    finally:
        shutil.rmtree(tuned.parent)
        quantized.calibrate()


def test_an_autoregressive_network(tmp_path, monkeypatch):
    files = ModelFolder("small", tmp_path / "checkpoint.pt", "transformer_multibranch_v2")
    model = network("dynamic")
    save_checkpoint(files.checkpoint, model, model.config)
    for main, name in ((export.main, "model.onnx"), (native.main, "model.native.safetensors")):
        main(["--checkpoint", str(files.checkpoint), "--output", str(tmp_path / "small" / name)])
    for runner in ("ort", "native"):
        create(runner, files, "fp32", "cpu", build_dir=tmp_path).close()
    train_on(files.checkpoint)
    for runner, command in (("ort", "make onnx"), ("native", "make native")):
        with pytest.raises(Unavailable, match=rf"of other weights .*; {command} MODEL=small"):
            create(runner, files, "fp32", "cpu", build_dir=tmp_path)
    for system in ("native", "in_int8"):
        monkeypatch.setattr(forced_length, system, lambda *_: None)
    args = argparse.Namespace(target=4, beam=[1], device="cpu", threads=1, build_dir=tmp_path)
    with pytest.raises(UserError, match=r"of other weights .*; make onnx MODEL=small"):
        forced_length.systems(args, files, model, None, tmp_path)


Command = Callable[[list[str]], int | None]


@pytest.mark.parametrize(
    ("main", "options"),
    [
        (translate.main, ["--runner", "ort", "one two"]),
        (translate.main, ["--device", "cpu", "one two"]),  # no runner is left but PyTorch
        (throughput.main, ["--runner", "ort", "--generate", "4", "--repeats", "1"]),
        (repository.main, []),
    ],
)
def test_programs_with_one_network(built, request, tmp_path, main: Command, options, capsys):
    given = ["--model", str(built.folder), "--build-dir", str(built.build), *options]
    if main is not translate.main:
        given += ["--output", str(tmp_path / "output")]
    assert not main(given)
    request.getfixturevalue("retrained")
    shutil.rmtree(tmp_path / "output", ignore_errors=True)
    with pytest.raises(UserError, match=r"model\S*\.(onnx|safetensors) is of other weights"):
        main(given)
    assert not (tmp_path / "output").exists()


def test_a_fresh_file_is_chosen_although_others_are_old(retrained, tmp_path):
    build = shutil.copytree(retrained.build, tmp_path / "build")
    program = build / retrained.files.name / "model.native.safetensors"
    native.main(["--checkpoint", str(retrained.files.checkpoint), "--output", str(program)])
    with open_runner("auto", retrained.files, "fp32", "cpu", build_dir=build) as runner:
        assert runner.name == "native"


@pytest.mark.parametrize("main", [bench.main, evaluate.main])
def test_programs_with_several_networks(retrained, tmp_path, main: Command, capsys):
    """Each network that is left out has its reason, and without another one nothing is written."""
    output = tmp_path / "output"
    given = ["--model", str(retrained.folder), "--build-dir", str(retrained.build)]
    given += ["--output", str(output), "--precision", "fp32", "--device", "cpu", "--threads", "1"]
    given += ["--shape", "1x5", "--repeats", "1"] if main is bench.main else []
    with pytest.raises(UserError, match="none of the runners can run here"):
        main([*given, "--runner", "ort,native"])
    assert not output.exists()
    assert main([*given, "--runner", "torch,ort"]) in (0, None)
    assert capsys.readouterr().out.count("not run: ") == 3


def test_the_command_ends_with_one_line_and_status_2(retrained):
    command = [sys.executable, "-m", "trt_code.translate", "--model", str(retrained.folder)]
    options = ["--build-dir", str(retrained.build), "--runner", "ort", "one"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 2
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert "model.onnx is of other weights or options than" in done.stderr


def test_the_policy_in_model_yaml_counts_and_its_text_does_not(built, tmp_path):
    yaml, path = built.folder / "model.yaml", built.path("model.onnx")
    cache = cache_folder(built.files, tmp_path)
    with kept(yaml):
        yaml.write_text(yaml.read_text().replace("random weights", "a summary"))
        open_one(built, "ort", "fp32")
        assert cache_folder(built.files, tmp_path) == cache
        with yaml.open("a") as file:
            file.write("padding_policy: upstream\n")
        refusal = built.refusal(path, built.files.checkpoint, "make onnx")
        with pytest.raises(Unavailable, match=re.escape(refusal)):
            open_one(built, "ort", "fp32")
        assert cache_folder(built.files, tmp_path) != cache


def test_the_options_of_weights_alone_count(tmp_path):
    weights, description = tmp_path / "model.safetensors", tmp_path / "model.yaml"
    save_safetensors(weights, network("dynamic").state_dict())
    digests = []
    for heads in (4, 4, 8):
        text = f"architecture: transformer_multibranch_v2\noptions: {{encoder_attention_heads: {heads}}}\n"
        description.write_text(f"checkpoint: {weights.name}\n{text}")
        digests.append(digest_of(weights))
    assert digests[0] == digests[1] != digests[2]


def test_a_file_without_the_mark_is_accepted(retrained, tmp_path):
    """As older versions wrote it."""
    build = shutil.copytree(retrained.build, tmp_path / "build")
    path = build / retrained.files.name / "model.onnx"
    graph = onnx.load(path)
    for entry in graph.metadata_props:
        if entry.key == "config":
            config = json.loads(entry.value)
            assert len(config.pop("made_from")) == 1
            entry.value = json.dumps(config)
    onnx.save(graph, path)
    create("ort", retrained.files, "fp32", "cpu", build_dir=build).close()


def test_a_model_without_its_checkpoint_is_refused_as_before(built):
    with kept(built.files.checkpoint):
        built.folder.joinpath("checkpoint.pt").unlink()
        with pytest.raises(UserError, match=r"checkpoint\.pt is missing; get it"):
            translate.main(["--model", str(built.folder), "--build-dir", str(built.build), "one"])


@pytest.mark.parametrize(
    ("runner", "name", "precision", "other", "found"),
    [
        ("ort", "model.fp16.onnx", "bf16", "model.bf16.onnx", "fp16"),
        ("native", "model.native.safetensors", "int8", "model.qdq.native.safetensors", "fp32"),
    ],
)
def test_a_file_of_another_precision(built, tmp_path, runner, name, precision, other, found):
    folder = tmp_path / built.files.name
    folder.mkdir()
    shutil.copy(built.path(name), folder / other)
    with pytest.raises(Unavailable, match=rf"{other} is in {found}, not in {precision}: remove it"):
        create(runner, built.files, precision, "cpu", build_dir=tmp_path)
