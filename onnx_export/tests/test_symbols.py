"""The reference functions in ONNX Runtime against the PyTorch operators, node by node."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_export.symbols import DOMAIN, FUNCTIONS, TRANSLATIONS, VERSION
from train_model.ops import crf_decode, dynamic_conv

ONNX_TYPE = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.bfloat16: onnx.TensorProto.BFLOAT16,
    torch.int32: onnx.TensorProto.INT32,
}
PRECISIONS = [torch.float32, torch.float16, torch.bfloat16]


def ort_value(tensor):
    if tensor.dtype == torch.bfloat16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            tensor.contiguous().view(torch.int16).numpy(), onnx.TensorProto.BFLOAT16
        )
    return onnxruntime.OrtValue.ortvalue_from_numpy(tensor.contiguous().numpy())


def run_node(op_type, inputs, outputs, **attributes):
    """Run one node of the domain through its function; ``outputs`` are (dtype, rank) pairs."""
    names = [f"in{i}" for i in range(len(inputs))]
    node = onnx.helper.make_node(
        op_type, names, [f"out{i}" for i in range(len(outputs))], domain=DOMAIN, **attributes
    )
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [
            onnx.helper.make_tensor_value_info(name, ONNX_TYPE[value.dtype], [None] * value.dim())
            for name, value in zip(names, inputs, strict=True)
        ],
        [
            onnx.helper.make_tensor_value_info(name, ONNX_TYPE[dtype], [None] * rank)
            for name, (dtype, rank) in zip(node.output, outputs, strict=True)
        ],
    )
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(DOMAIN, VERSION)],
        functions=[FUNCTIONS[op_type]],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    # BF16 has no NumPy type, so results travel through DLPack
    feeds = {name: ort_value(value) for name, value in zip(names, inputs, strict=True)}
    return [
        torch.from_dlpack(value._ortvalue.to_dlpack())
        for value in session.run_with_ort_values(None, feeds)
    ]


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3)),
    kernel_size=st.integers(1, 9),
    length=st.integers(1, 9),
    data=st.data(),
)
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_dynamic_conv_function(dtype, shape, kernel_size, length, data):
    batch, heads, per_head = shape
    padding_l = data.draw(st.integers(0, kernel_size - 1))
    torch.manual_seed(data.draw(st.integers(0, 2**16)))
    x = torch.randn(batch, heads * per_head, length).to(dtype)
    weight = torch.randn(batch, heads, kernel_size, length).to(dtype)
    (y,) = run_node("LiteDynamicConv", [x, weight], [(dtype, 3)], padding_l=padding_l)
    # accumulated in FP32 and rounded once, whatever the precision
    expected = dynamic_conv(x.float(), weight.float(), padding_l).to(dtype)
    tolerance = torch.finfo(dtype).eps
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=8 * torch.finfo(torch.float32).eps)


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 9),
    beam=st.integers(1, 5),
    seed=st.integers(0, 2**16),
)
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_crf_decode_function(dtype, batch, length, beam, seed):
    torch.manual_seed(seed)
    emissions = torch.randn(batch, length, beam).to(dtype)
    targets = torch.randint(23, (batch, length, beam), dtype=torch.int32)
    E1, E2 = torch.randn(2, 23, 3).to(dtype)
    mask = (torch.rand(batch, length) < 0.7).int()
    expected = crf_decode(emissions, targets, E1, E2, mask)
    tokens, scores = run_node(
        "LiteCrfDecode",
        [emissions, targets, E1, E2, mask],
        [(torch.int32, 2), (torch.float32, 2)],
    )
    assert tokens.equal(expected[0])
    torch.testing.assert_close(scores, expected[1], rtol=1e-5, atol=1e-5)


def test_equal_candidates_take_the_lowest_slot_as_in_pytorch():
    emissions, mask = torch.zeros(1, 4, 3), torch.ones(1, 4, dtype=torch.int32)
    targets = torch.arange(12, dtype=torch.int32).view(1, 4, 3)
    E1 = E2 = torch.zeros(12, 2)
    outputs = [(torch.int32, 2), (torch.float32, 2)]
    tokens, _ = run_node("LiteCrfDecode", [emissions, targets, E1, E2, mask], outputs)
    assert tokens.tolist() == crf_decode(emissions, targets, E1, E2, mask)[0].tolist()
    assert tokens.tolist() == [[0, 3, 6, 9]]


class Both(torch.nn.Module):
    """The two operators on one input, as an export sees them."""

    def forward(self, x):
        weight = x.unflatten(1, (2, -1)).softmax(2)
        y = dynamic_conv(x, weight, 1).transpose(1, 2)
        values, targets = y.topk(3, -1)
        E = torch.linspace(0, 1, 12).view(6, 2)
        mask = torch.ones(values.shape[:2], dtype=torch.int32)
        return y, *crf_decode(values, targets.int(), E, E.flip(0), mask)


@pytest.mark.parametrize("length", [1, 2, 11])
def test_translation_writes_one_node_with_its_attribute(length):
    dims = {0: torch.export.Dim("batch", min=1), 2: torch.export.Dim("length", min=1)}
    program = torch.onnx.export(
        Both().eval(),
        (torch.randn(2, 6, 5),),
        dynamo=True,
        opset_version=20,
        dynamic_shapes=(dims,),
        custom_translation_table=TRANSLATIONS,
        verbose=False,
    )
    model = program.model_proto
    lite = {node.op_type: node for node in model.graph.node if node.domain == DOMAIN}
    assert set(lite) == {"LiteDynamicConv", "LiteCrfDecode"}
    assert onnx.helper.get_node_attr_value(lite["LiteDynamicConv"], "padding_l") == 1
    model.functions.extend(FUNCTIONS.values())
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = torch.randn(3, 6, length)
    for got, expected in zip(
        session.run(None, {session.get_inputs()[0].name: x.numpy()}), Both()(x), strict=True
    ):
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5, atol=1e-5)
