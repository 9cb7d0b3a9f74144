"""Every graph that the lint passes builds: the real parser and builder, with plugin creators in Python."""

from pathlib import Path

import onnx
import pytest

from onnx_export.symbols import DOMAIN
from trt_code import onnx_surgeon
from trt_code.graph_lint import lint
from trt_code.tests.engine import real_tensorrt
from trt_code.tests.plugins.plugin_build import PROJECT

# The graphs that `make patch` wrote into this checkout, if any. `make patch test` covers the demo's graphs.
WRITTEN = sorted(
    path
    for path in PROJECT.glob("build/*/model*.onnx")
    if any(f".{precision}." in path.name for precision in onnx_surgeon.PRECISIONS)
)


def check(model: onnx.ModelProto) -> None:
    """Check that the lint passes ``model`` and TensorRT builds it, with a layer for every plugin node."""
    assert lint(model) == []
    reply = real_tensorrt.build(real_tensorrt.tensorrt(), model)
    assert reply.refused_by == "", reply.words
    assert reply.plugins == sum(node.domain == DOMAIN for node in model.graph.node)
    for output in model.graph.output:
        element = onnx.TensorProto.DataType.Name(output.type.tensor_type.elem_type)
        assert reply.types[output.name] == element


@pytest.mark.parametrize(
    ("precision", "plugins"),
    [("fp32", "lite"), ("fp16", "lite"), ("bf16", "lite"), ("fp16", "none")],
)
def test_a_patched_network(precision: str, plugins: str, tiny_build: Path, tmp_path: Path) -> None:
    source, output = tiny_build / "tiny/model.onnx", tmp_path / f"model.{precision}.onnx"
    given = ["--input", str(source), "--output", str(output), "--precision", precision]
    onnx_surgeon.main([*given, "--plugins", plugins])
    check(onnx.load(output))


@pytest.mark.skipif(not WRITTEN, reason="no patched graph in build/ (make patch)")
@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_make_patch_wrote(path: Path) -> None:
    real_tensorrt.tensorrt()
    check(onnx.load(path))
