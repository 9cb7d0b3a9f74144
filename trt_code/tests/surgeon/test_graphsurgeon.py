"""doc/surgery/layer_norm_gs.py: the same replacement with onnx-graphsurgeon and with onnx_ir."""

import runpy
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from onnx_export.reference import with_reference_functions
from trt_code.surgeon import layer_norm

SCRIPT = Path(__file__).parents[3] / "doc" / "surgery" / "layer_norm_gs.py"
# Two norms in a row; the second one has no shift.
GRAPH = """
<ir_version: 10, opset_import: ["" : 20]>
norms (float[batch, length, 6] x) => (float[batch, length, 6] y) {
    once = LayerNormalization <epsilon = 0.01> (x, scale, shift)
    y = LayerNormalization <axis = -1> (once, scale)
}
"""


@pytest.fixture
def source(tmp_path) -> Path:
    pytest.importorskip("onnx_graphsurgeon", reason="onnx-graphsurgeon is not installed (make env)")
    model = onnx.parser.parse_model(GRAPH)
    rng = np.random.default_rng(1)
    for name in ("scale", "shift"):
        array = rng.normal(size=6).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for number, node in enumerate(model.graph.node):
        node.name = f"norm{number}"
    path = tmp_path / "norms.onnx"
    onnx.save(model, path)
    return path


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        with_reference_functions(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def test_graphsurgeon_and_the_surgeon_write_the_same_nodes(source, tmp_path, capsys):
    target = tmp_path / "gs.onnx"
    assert runpy.run_path(str(SCRIPT))["main"]([str(source), str(target)]) == 0
    assert "2 LayerNormalization to LiteLayerNorm" in capsys.readouterr().out
    theirs = onnx.load(target)
    ours = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load(source)))
    assert layer_norm.to_plugin(ours) == 2

    def nodes(model: onnx.ModelProto) -> list[tuple]:
        values = {tensor.name: tensor for tensor in model.graph.initializer}
        return [
            (
                node.op_type,
                node.domain,
                [onnx.numpy_helper.to_array(values[n]).tolist() for n in node.input if n in values],
                next(round(item.f, 6) for item in node.attribute if item.name == "eps"),
            )
            for node in model.graph.node
        ]

    assert nodes(theirs) == nodes(ir.to_proto(ours))
    x = np.random.default_rng(2).normal(size=(2, 3, 6)).astype(np.float32)
    original = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(run(theirs, x), original.run(None, {"x": x})[0], atol=1e-6)
