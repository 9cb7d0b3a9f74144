"""Files of the TorchScript exporter, opset 11, like the public ``lite.onnx`` of the original project."""

import collections

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from onnx_export.reference import with_reference_functions
from trt_code import onnx_surgeon
from trt_code.tests.surgeon.older_export import LENGTH, VOCAB, export_older


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    path = tmp_path_factory.mktemp("older") / "lite.onnx"
    return export_older(path), path


def run_patched(older, tmp_path, *flags):
    model, path = older
    output = tmp_path / "patched.onnx"
    assert onnx_surgeon.main(["--input", str(path), "--output", str(output), *flags]) == 0
    patched = onnx.load(output)
    session = onnxruntime.InferenceSession(
        with_reference_functions(patched).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for batch in (1, 4):
        source = torch.randint(4, VOCAB, (batch, LENGTH))
        source[-1, 4:] = 1
        tokens, scores = model(source)
        yield patched, session.run(None, {"src_tokens": source.numpy()}), (tokens, scores)


def test_the_file_is_of_the_old_form(older):
    graph = onnx.load(older[1]).graph
    nodes = collections.Counter(node.op_type for node in graph.node)
    assert nodes["dynamicconv_forward"] == 2
    assert nodes["LayerNormalization"] == 0
    assert nodes["ScatterND"] >= 2
    assert nodes["ScatterElements"] == 1
    assert nodes["ArgMax"] == 2 * LENGTH + 1  # one per step of the loop, the end, and the length


def test_patched_it_computes_the_same(older, tmp_path):
    for patched, (tokens, scores), expected in run_patched(older, tmp_path):
        np.testing.assert_array_equal(tokens, expected[0].numpy())
        np.testing.assert_allclose(scores, expected[1].numpy(), atol=1e-4)
        nodes = collections.Counter(node.op_type for node in patched.graph.node)
        assert nodes["LiteCrfDecode"] == 1
        assert nodes["LiteDynamicConv"] == nodes["LiteLayerNorm"] == 2
        assert nodes["ArgMax"] == 1  # of the length; the loop no longer exists
        assert not nodes.keys() & {"GatherElements", "CumSum", "dynamicconv_forward"}
        assert nodes["Softmax"] == 1  # of attention; the convolutions contain those over taps


def test_epsilon_is_the_graphs_own(older, tmp_path):
    for patched, _, _ in run_patched(older, tmp_path):
        for node in patched.graph.node:
            if node.op_type == "LiteLayerNorm":
                assert onnx.helper.get_node_attr_value(node, "eps") == pytest.approx(1e-3)


def test_in_fp16(older, tmp_path):
    for _, (tokens, scores), expected in run_patched(older, tmp_path, "--precision", "fp16"):
        assert (tokens == expected[0].numpy()).mean() > 0.9
        assert np.isfinite(scores).all()


@pytest.mark.parametrize("step", [2, LENGTH])
def test_a_loop_with_one_other_step_is_left_alone(older, tmp_path, step):
    """A step takes its emission from the previous position, so the loop is not Viterbi."""
    model = onnx.load(older[1])
    nodes = {name: node for node in model.graph.node for name in node.output}
    (top_k,) = (node for node in model.graph.node if node.op_type == "TopK")

    def position(node):
        if node.op_type != "Gather" or node.input[0] != top_k.output[0]:
            return None
        return int(onnx.numpy_helper.to_array(nodes[node.input[1]].attribute[0].t))

    gathers = {position(node): node for node in model.graph.node if position(node) is not None}
    gathers[step].input[1] = gathers[step - 1].input[1]
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    output = tmp_path / "patched.onnx"
    onnx_surgeon.main(["--input", str(path), "--output", str(output)])
    kinds = [node.op_type for node in onnx.load(output).graph.node]
    assert "LiteCrfDecode" not in kinds
    assert kinds.count("ArgMax") == 2 * LENGTH + 1
