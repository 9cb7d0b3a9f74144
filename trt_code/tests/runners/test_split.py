"""The two halves through surgery and in ONNX Runtime: the same translations as from one file."""

import shutil

import numpy as np
import onnx
import pytest

from onnx_export import onnx_file
from trt_code import graph_lint, onnx_surgeon
from trt_code.runners import Unavailable, create
from trt_code.surgeon.ranges import measure_decoder


@pytest.fixture(scope="module")
def build(tiny_files, tiny_halves, tmp_path_factory):
    """A build folder with both halves of ``tiny``, exported and patched to FP16."""
    folder = shutil.copytree(tiny_halves, tmp_path_factory.mktemp("split") / "build")
    path = folder / tiny_files.name / "model.onnx"
    patched = path.with_name("model.fp16.onnx")
    files = ["--input", str(path), "--output", str(patched), "--precision", "fp16", "--split"]
    assert onnx_surgeon.main(files) == 0
    return folder


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 3e-2)])
def test_the_runner_gives_what_the_network_gives(
    precision, tolerance, tiny_files, build, expected, batch
):
    with create("ort-split", tiny_files, precision, "cpu", threads=1, build_dir=build) as runner:
        output = runner.run(batch)
        assert (runner.name, runner.precision, runner.max_source) == ("ort-split", precision, 24)
        assert runner.make_ms > 0
    np.testing.assert_array_equal(output.tokens, expected[0])
    np.testing.assert_allclose(output.scores, expected[1], rtol=tolerance, atol=tolerance)
    assert not np.array_equal(output.scores, expected[1]) or precision == "fp32"


def test_the_file_that_make_checks_is_written_last(build, tmp_path, monkeypatch):
    """A kill between the two files must not leave the file that make checks."""
    saved = []

    def save(models):
        saved.extend(path.name for path in models)
        onnx_file.save_pair(models)

    monkeypatch.setattr(onnx_surgeon, "save_pair", save)
    files = ["--input", str(build / "tiny" / "model.onnx"), "--precision", "fp32", "--split"]
    assert onnx_surgeon.main([*files, "--output", str(tmp_path / "model.fp32.onnx")]) == 0
    assert saved == ["model.fp32.encoder.onnx", "model.fp32.decoder.onnx"]


def test_patched_halves_pass_the_lint_and_keep_fp32_inputs_and_outputs(build):
    for half in ("encoder", "decoder"):
        model = onnx.load(build / "tiny" / f"model.fp16.{half}.onnx")
        assert graph_lint.lint(model) == []
        assert not model.functions
        kinds = [
            item.type.tensor_type.elem_type for item in (*model.graph.input, *model.graph.output)
        ]
        assert onnx.TensorProto.FLOAT16 not in kinds
        assert any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)


def test_the_decoders_ranges_are_measured_with_its_encoder(build):
    folder = build / "tiny"
    encoder, decoder = (
        onnx_surgeon.load(folder / f"model.{half}.onnx") for half in ("encoder", "decoder")
    )
    ranges = measure_decoder(encoder, decoder)
    logits = next(name for name in ranges if name.startswith("decoder.output_projection/"))
    assert 0 < ranges[logits] < np.inf
    # a larger encoder output gives larger ranges
    (norm,) = (node for node in encoder.graph if node.outputs[0] is encoder.graph.outputs[0])
    scale = norm.inputs[1]
    scale.const_value = onnx_surgeon.ir.tensor(scale.const_value.numpy() * 50, name=scale.name)
    source = next(name for name in ranges if name.startswith("decoder.source_projection/"))
    assert measure_decoder(encoder, decoder)[source] > 5 * ranges[source]


@pytest.mark.parametrize(
    ("precision", "target"),
    [
        ("fp32", "make onnx-split MODEL=tiny"),
        ("bf16", "make patch-split PRECISION=bf16 MODEL=tiny"),
    ],
)
def test_a_missing_file_names_the_command_that_builds_it(precision, target, tiny_files, tmp_path):
    with pytest.raises(Unavailable, match=target):
        create("ort-split", tiny_files, precision, "cpu", build_dir=tmp_path)
