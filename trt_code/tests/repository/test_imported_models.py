"""A user's model works with every target: runs them on an imported network of each family.

``trt_code/tests/networks`` runs every architecture in every runner.
"""

import json

import onnx
import pytest

from onnx_export.paths import half_path
from train_model.cli import UserError
from trt_code import bench, translate
from trt_code.measure import sweep, throughput
from trt_code.tests.engine import real_tensorrt
from trt_code.tests.networks.small_model import SmallModel
from trt_code.triton import repository

NETWORKS = {
    "one-pass": "conv_crf_transformer",
    "iterative": "cmlm_transformer",
    "autoregressive": "transformer_multibranch_v2",
}


@pytest.fixture(scope="module", params=NETWORKS)
def imported(request, tmp_path_factory) -> SmallModel:
    made = SmallModel(NETWORKS[request.param], tmp_path_factory.mktemp(request.param))
    assert made.files.family == request.param
    made.graph("fp32")
    return made


@pytest.mark.parametrize(("precision", "plugins"), [("fp16", "lite"), ("bf16", "none")])
def test_patch_and_the_real_builder(imported, precision, plugins):
    output = imported.graph(precision, plugins=plugins)
    trt = real_tensorrt.tensorrt()
    halves = [] if imported.files.family == "one-pass" else [half_path(output, "encoder")]
    for path in (output, *halves):
        reply = real_tensorrt.build(trt, onnx.load(path))
        assert reply.refused_by == "", reply.words


def test_bench(imported):
    arguments = ("--device", "cpu", "--runner", "torch,ort", "--precision", "fp32")
    quick = ("--shape", "1x4", "--repeats", 1, "--seconds", 0.1)
    assert imported.run(bench.main, *arguments, *quick, output="bench") == 0
    rows = json.loads((imported.out / "bench" / "results.json").read_text())["rows"]
    assert [(row["runner"], row["check"]) for row in rows] == [
        ("torch", "reference"),
        ("ort", "Good"),
    ]


def test_throughput(imported):
    quick = ("--runners", 1, "--processes", 1, "--repeats", 1, "--text", imported.files.test_src)
    assert not imported.run(
        throughput.main, "--device", "cpu", "--runner", "ort", *quick, output="throughput"
    )


def test_sweep(imported):
    quick = ("--blocks", "torch:fp32,ort:fp32", "--batches", "1", "--lengths", "4")
    quick += ("--compiled-shapes", "1x4", "--repeats", 1, "--seconds", 0.1)
    status = imported.run(sweep.main, "--device", "cpu", *quick, output="sweep")
    assert not status


def test_ptq_and_its_graph(imported):
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed (make env)")
    assert imported.graph("int8").is_file()
    if imported.files.family == "one-pass":  # as make patch-split PRECISION=int8 does
        halves = imported.graph("int8", split=True)
        assert halves.with_suffix(".decoder.onnx").is_file()
    imported.run(
        translate.main, "--device", "cpu", "--runner", "ort", "--precision", "int8", "--", "ab"
    )


def test_split_files(imported):
    if imported.files.family != "one-pass":
        with pytest.raises(UserError, match="is always two files"):
            imported.graph("fp32", split=True)
        return
    imported.graph("fp32", split=True)
    imported.run(translate.main, "--device", "cpu", "--runner", "ort-split", "--", "ab c")


def test_triton(imported):
    if imported.files.family != "one-pass":
        return  # make refuses this before it builds anything
    imported.run(repository.main, output="triton")
    folder = imported.out / "triton" / "models" / "lite_translate" / "1"
    described = json.loads((folder / "text.json").read_text())
    assert described["text"]["codes"] == "bpecodes"
    assert (folder / "bpecodes").is_file()
