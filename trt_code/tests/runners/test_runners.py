"""The PyTorch and ONNX Runtime runners against the network itself, and what they refuse."""

import dataclasses
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from onnx_export import export
from train_model.cli import UserError
from train_model.data.dictionary import Dictionary
from train_model.quantization.text import calibration_rows
from trt_code.runners import Runner, Unavailable, create
from trt_code.runners.base import WARM_UP
from trt_code.runners.memory import ResidentMemory


@pytest.mark.parametrize("name", ["torch", "ort"])
def test_fp32_gives_what_the_network_gives(name, tiny_files, tiny_build, expected, batch):
    with create(name, tiny_files, "fp32", "cpu", threads=1, build_dir=tiny_build) as runner:
        output = runner.run(batch)
        assert (runner.name, runner.precision, runner.device) == (name, "fp32", "cpu")
        assert runner.max_source == 24
    np.testing.assert_array_equal(output.tokens, expected[0])
    np.testing.assert_allclose(output.scores, expected[1], rtol=1e-4, atol=1e-4)
    assert output.tokens.dtype == np.int64
    assert output.scores.dtype == np.float32


@pytest.mark.parametrize("side", ["src_dict", "tgt_dict"])
def test_a_graph_of_another_dictionary_is_one_line(side, tiny_files, tiny_build, tmp_path):
    """As after a training with another dictionary, before the graph is exported again."""
    more = Dictionary.load(tiny_files.src_dict)
    Dictionary([*more.counts, ("eleven", 1)]).save(tmp_path / "dict.txt")
    files = dataclasses.replace(tiny_files, **{side: tmp_path / "dict.txt"})
    graph = tiny_build / "tiny" / "model.onnx"
    reason = (
        f"{graph} was exported for a dictionary of {len(more)} words and {tmp_path}/dict.txt has "
        f"{len(more) + 1}: remove it and make it again (make onnx MODEL=tiny)"
    )
    with pytest.raises(Unavailable, match=re.escape(reason)):
        create("ort", files, "fp32", "cpu", build_dir=tiny_build)


@pytest.mark.parametrize("side", ["src_dict", "tgt_dict"])
def test_a_checkpoint_of_another_dictionary_is_one_line(side, tiny_files, tmp_path):
    more = Dictionary.load(tiny_files.src_dict)
    Dictionary([*more.counts, ("eleven", 1)]).save(tmp_path / "dict.txt")
    files = dataclasses.replace(tiny_files, **{side: tmp_path / "dict.txt"})
    reason = (
        f"{tiny_files.checkpoint} was trained with a dictionary of {len(more)} words and "
        f"{tmp_path}/dict.txt has {len(more) + 1}: give the dictionary that"
    )
    with pytest.raises(Unavailable, match=re.escape(reason)):
        create("torch", files, "fp32", "cpu")
    if side == "src_dict":
        with pytest.raises(UserError, match=re.escape(reason)):
            calibration_rows(files, None, 4, len(more), 24)


def test_a_dictionary_of_the_same_size_with_other_words_is_one_line(tiny_files, tmp_path):
    """The checkpoint's model.yaml and the graph's metadata have the digest of the correct dictionary."""
    checkpoint, changed = tmp_path / "checkpoint.pt", tmp_path / "dict.txt"
    shutil.copy(tiny_files.checkpoint, checkpoint)
    right = Dictionary.load(tiny_files.src_dict)
    (tmp_path / "model.yaml").write_text(
        "architecture: conv_crf_transformer\ncheckpoint: checkpoint.pt\n"
        f"dictionary_sha256: {{source: {right.digest()}, target: {right.digest()}}}\n"
    )
    export.main(["--checkpoint", str(checkpoint), "--output", str(tmp_path / "tiny/model.onnx")])
    Dictionary(right.counts[::-1]).save(changed)
    good = dataclasses.replace(tiny_files, checkpoint=checkpoint)
    wrong = dataclasses.replace(good, src_dict=changed)
    for name in ("torch", "ort"):
        create(name, good, "fp32", "cpu", build_dir=tmp_path).close()
        with pytest.raises(
            Unavailable, match=rf"a dictionary of other words than those of {changed}"
        ):
            create(name, wrong, "fp32", "cpu", build_dir=tmp_path)
    with pytest.raises(UserError, match="of other words than those of"):
        calibration_rows(wrong, None, 4, len(right), 24)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_low_precision_is_really_low(precision, tiny_files, expected, batch):
    with create("torch", tiny_files, precision, "cpu") as runner:
        scores = runner.run(batch).scores
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert not np.array_equal(scores, expected[1])


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_torch_on_a_gpu(precision, tiny_files, expected, batch):
    before = torch.backends.cuda.matmul.fp32_precision
    with create("torch", tiny_files, precision, "cuda") as runner:
        output = runner.run(batch)
        timing = runner.time(batch, 5)
        assert runner.peak_memory() > 0
    assert torch.backends.cuda.matmul.fp32_precision == before
    assert len(timing.device_ms) == len(timing.host_ms) == 5
    if precision == "fp32":
        np.testing.assert_array_equal(output.tokens, expected[0])


@pytest.mark.parametrize(
    ("name", "precision", "device", "word"),
    [
        ("tensorflow", "fp32", "cpu", "torch, ort"),
        ("ort", "fp4", "cpu", "fp16"),
        ("ort", "fp32", "tpu", "cuda"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(name, precision, device, word, tiny_files):
    with pytest.raises(UserError, match=word):
        create(name, tiny_files, precision, device)


def test_what_cannot_run_here_says_why(tiny_files, tiny_build, tmp_path):
    for name, precision, reason in [
        ("torch", "tf32", "CUDA GPU"),
        ("torch", "int8", "make ptq"),
        ("ort", "tf32", "CUDA GPU"),
        ("ort", "fp16", "make patch PRECISION=fp16 MODEL=tiny"),
    ]:
        with pytest.raises(Unavailable, match=reason):
            create(name, tiny_files, precision, "cpu", build_dir=tiny_build)
    with pytest.raises(Unavailable, match="make onnx MODEL=tiny"):
        create("ort", tiny_files, "fp32", "cpu", build_dir=tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_damaged_graph_is_one_line(precision, tiny_files, tmp_path):
    name = "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / name).write_bytes(b"<html>not a model</html>")
    with pytest.raises(UserError, match=name):
        create("ort", tiny_files, precision, "cpu", build_dir=tmp_path)


def test_time_warms_up_and_counts(monkeypatch, batch):
    class Counting(Runner):
        passes = 0

        def run(self, src_tokens):
            self.passes += 1

        def peak_memory(self):
            return 0

    runner = Counting("counting", "fp32", "cpu")
    timing = runner.time(batch, 7)
    assert runner.passes == WARM_UP + 7
    assert len(timing.host_ms) == 7
    assert timing.device_ms == timing.host_ms
    monkeypatch.setattr(runner, "_device_ms", lambda src_tokens, repeats: [0.5] * repeats)
    assert runner.time(batch, 2).device_ms == [0.5, 0.5]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory_sees_what_was_given_back():
    memory = ResidentMemory()
    np.ones(2**24).sum()  # 128 MiB, freed immediately
    assert 120 * 2**20 < memory.peak() < 400 * 2**20


def test_a_runner_imports_only_its_own_framework(tiny_files):
    script = """
import sys
import trt_code.runners
assert not {"torch", "onnxruntime", "tensorrt"} & set(sys.modules), sorted(sys.modules)
import trt_code.runners.one_pass.ort_runner
assert not {"torch", "onnxruntime", "tensorrt"} & set(sys.modules), sorted(sys.modules)
import trt_code.runners.one_pass.torch_runner
assert not {"onnxruntime", "tensorrt"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
