"""The form without plugins: only standard operators, with the same results as the form with plugins."""

import numpy as np
import onnx
import pytest
import torch

from onnx_export import verify_one_pass
from onnx_export.tests.tiny import Exported, export_tiny
from onnx_export.verify_one_pass import random_source
from trt_code.graph_lint import lint
from trt_code.tests.surgeon.patched_network import patched, session_of


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Exported:
    return export_tiny(tmp_path_factory.mktemp("tiny"))


def test_in_fp32_it_is_the_network(exported, tmp_path):
    model = patched(exported, tmp_path, "--plugins", "none")
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]
    assert not model.functions
    assert not lint(model)
    assert {"plugins": "none"}.items() <= {e.key: e.value for e in model.metadata_props}.items()
    checks = verify_one_pass.verify(exported.model, session_of(model))
    assert [check for check in checks if not check.good] == []


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_in_low_precision_it_is_the_form_with_plugins(exported, tmp_path, precision):
    """With rounding after every node. TopK in FP32 of BF16 numbers changes nothing."""
    forms = [
        patched(exported, tmp_path, "--precision", precision, "--plugins", plugins)
        for plugins in ("lite", "none")
    ]
    low = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    (top_k,) = (node for node in forms[1].graph.node if node.op_type == "TopK")
    types = {item.name: item.type.tensor_type.elem_type for item in forms[1].graph.value_info}
    assert types[top_k.input[0]] == onnx.TensorProto.FLOAT
    assert low in types.values()
    sessions = [session_of(model) for model in forms]
    generator = torch.Generator().manual_seed(3)
    for shape in ((1, 1, "none"), (3, 7, "right"), (8, 20, "right")):
        source = {"src_tokens": random_source(*shape, 90, generator).numpy()}
        expected, got = (session.run(None, source) for session in sessions)
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_allclose(got[1], expected[1], rtol=1e-5, atol=1e-5)


def test_every_number_of_low_precision_is_one_in_fp32():
    """A cast to FP32 and back changes no FP16 or BF16 number, and not their order."""
    import ml_dtypes

    for dtype in (np.float16, ml_dtypes.bfloat16):
        numbers = np.arange(2**16, dtype=np.uint16).view(dtype)
        numbers = numbers[~np.isnan(numbers)]
        wide = numbers.astype(np.float32)
        np.testing.assert_array_equal(wide.astype(dtype).view(np.uint16), numbers.view(np.uint16))
        order = np.argsort(wide, kind="stable")
        ordered = numbers[order]
        assert (ordered[:-1] <= ordered[1:]).all()
