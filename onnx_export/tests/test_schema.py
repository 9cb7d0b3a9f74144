"""The operators' schemas: they infer the reference functions' shapes and types, and refuse bad nodes."""

import numpy as np
import onnx
import onnxruntime
import pytest

from onnx_export.reference import with_reference_functions
from onnx_export.symbols import DOMAIN, OPERATORS, VERSION
from onnx_export.tests.operator_examples import Example, examples

FLOAT, FLOAT16, INT32 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT32


def types(example: Example, data: int = FLOAT) -> dict[str, onnx.TypeProto]:
    return {
        tensor.name: onnx.helper.make_tensor_type_proto(
            data if data in tensor.type.elements else tensor.type.elements[0], example.shape(tensor)
        )
        for tensor in example.inputs
    }


def element_and_shape(kind: onnx.TypeProto) -> tuple[int, list[int | str]]:
    dims = kind.tensor_type.shape.dim
    return kind.tensor_type.elem_type, [dim.dim_param or dim.dim_value for dim in dims]


def test_operators_are_found_without_a_list():
    assert set(OPERATORS) >= {"LiteCrfDecode", "LiteDynamicConv", "LiteLayerNorm", "LiteTopK"}


@pytest.mark.parametrize("example", examples(), ids=str)
def test_inference_is_what_the_reference_function_computes(example):
    given = types(example)
    node = example.node()
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [onnx.helper.make_value_info(name, kind) for name, kind in given.items()],
        [onnx.helper.make_empty_tensor_value_info(name) for name in node.output],
    )
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(DOMAIN, VERSION)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(
        with_reference_functions(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {
        name: np.ones(element_and_shape(kind)[1], onnx.helper.tensor_dtype_to_np_dtype(element))
        for name, kind in given.items()
        for element in (kind.tensor_type.elem_type,)
    }
    inferred = example.operator.infer(node, given)
    for name, value in zip(node.output, session.run(None, feeds), strict=True):
        element, shape = element_and_shape(inferred[name])
        assert shape == list(value.shape)
        assert onnx.helper.tensor_dtype_to_np_dtype(element) == value.dtype


@pytest.mark.parametrize("example", examples(), ids=str)
def test_data_outputs_follow_the_precision_of_the_inputs(example):
    inferred = example.operator.infer(example.node(), types(example, FLOAT16))
    for tensor in example.form.outputs:
        expected = FLOAT16 if FLOAT16 in tensor.type.elements else tensor.type.elements[0]
        assert inferred[tensor.name].tensor_type.elem_type == expected


def test_symbolic_sizes_stay_symbols():
    node = onnx.helper.make_node("LiteTopK", ["x"], ["v", "i"], domain=DOMAIN, k=3)
    kind = onnx.helper.make_tensor_type_proto(FLOAT, ["batch", "length", "vocabulary"])
    inferred = OPERATORS["LiteTopK"].infer(node, {"x": kind})
    assert element_and_shape(inferred["v"]) == (FLOAT, ["batch", "length", 3])
    assert element_and_shape(inferred["i"]) == (INT32, ["batch", "length", 3])


REFUSED = {
    "two precisions": (
        "LiteDynamicConv",
        {"padding_l": 1},
        [(FLOAT, [2, 8, 5]), (FLOAT16, [2, 4, 3, 5])],
        "weight is FLOAT16, not FLOAT",
    ),
    "integers": ("LiteTopK", {"k": 3}, [(INT32, [2, 5])], "x is INT32, not FLOAT or FLOAT16"),
    "a wrong rank": (
        "LiteDynamicConv",
        {"padding_l": 1},
        [(FLOAT, [2, 8, 5]), (FLOAT, [2, 5, 12])],
        "weight is of rank 3, not 4",
    ),
    "two lengths": (
        "LiteDynamicConv",
        {"padding_l": 1},
        [(FLOAT, [2, 8, 5]), (FLOAT, [2, 4, 3, 6])],
        "T of weight is 6, not 5",
    ),
    "logits of other heads": (
        "LiteDynamicConv",
        {"padding_l": 1, "fused": 1, "heads": 4, "kernel_size": 3},
        [(FLOAT, [2, 5, 8]), (FLOAT, [2, 5, 13])],
        "kernel_size of logits is 13, not 12",
    ),
    "a mask on ready weights": (
        "LiteDynamicConv",
        {"padding_l": 1},
        [(FLOAT, [2, 8, 5]), (FLOAT, [2, 4, 3, 5]), (INT32, [2, 5])],
        "3 inputs instead of 2",
    ),
    "an unknown form": (
        "LiteDynamicConv",
        {"padding_l": 1, "fused": 2},
        [(FLOAT, [2, 8, 5]), (FLOAT, [2, 4, 3, 5])],
        "no form of LiteDynamicConv",
    ),
    "a missing attribute": ("LiteTopK", {}, [(FLOAT, [2, 5])], "k"),
    "an unknown attribute": ("LiteTopK", {"k": 3, "largest": 1}, [(FLOAT, [2, 5])], "largest"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name):
    op_type, attributes, inputs, words = REFUSED[name]
    operator = OPERATORS[op_type]
    names = [f"in{index}" for index in range(len(inputs))]
    outputs = [tensor.name for tensor in operator.forms[0].outputs]
    node = onnx.helper.make_node(op_type, names, outputs, domain=DOMAIN, **attributes)
    kinds = [onnx.helper.make_tensor_type_proto(*item) for item in inputs]
    with pytest.raises((ValueError, onnx.checker.ValidationError), match=words):
        operator.infer(node, dict(zip(names, kinds, strict=True)))
