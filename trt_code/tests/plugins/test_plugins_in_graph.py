"""The plugin nodes that the surgeon writes, run in the plugin host.

ONNX Runtime runs the patched graph with reference functions. The inputs of every plugin node there are the
plugin's inputs here, and the outputs are its expected results.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from onnx_export.reference import with_reference_functions
from onnx_export.symbols.schema import NAMING
from trt_code import onnx_surgeon
from trt_code.plugin_host.host import Case, PluginHost

pytestmark = pytest.mark.tensorrt_headers

DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT32: torch.int32,
}
SHAPES = ((3, 7), (1, 4), (2, 12))
# Relative to the largest value; the reference rounds where the kernel keeps FP32.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(scope="module", params=["fp32", "fp16", "bf16"])
def planned(
    request: pytest.FixtureRequest, tiny_build: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[Case, list[list[torch.Tensor]]]]:
    """Return each plugin node of a patched graph as a case, with ONNX Runtime's results."""
    output = tmp_path_factory.mktemp("patched") / f"model.{request.param}.onnx"
    source = str(tiny_build / "tiny/model.onnx")
    given = ["--input", source, "--output", str(output), "--precision", request.param]
    assert not onnx_surgeon.main(given)
    model = onnx.load(output)
    nodes = [node for node in model.graph.node if node.op_type.startswith("Lite")]
    dtypes = tensor_types(model)
    runs = [values(model, nodes, shape) for shape in SHAPES]

    def tensors(names: list[str]) -> list[list[torch.Tensor]]:
        return [[torch.from_numpy(run[n]).to(dtypes[n]) for n in names] for run in runs]

    return [
        (case_of(node, index, tensors(node.input), tensors(node.output)), tensors(node.output))
        for index, node in enumerate(nodes)
    ]


def tensor_types(model: onnx.ModelProto) -> dict[str, torch.dtype]:
    """Return the types of the graph's tensors as TensorRT has them, inferred from the functions."""
    typed = onnx.shape_inference.infer_shapes(with_reference_functions(model, native=True))
    graph = typed.graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name: DTYPES[kind] for name, kind in kinds.items() if kind in DTYPES}


def values(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], shape: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Return the plugin nodes' inputs and outputs for random sentences of one shape."""
    names = sorted({name for node in nodes for name in (*node.input, *node.output)})
    runnable = with_reference_functions(model)
    del runnable.graph.output[:]
    runnable.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()  # without optimisation every tensor keeps its name
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        runnable.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    tokens = np.random.default_rng(5).integers(4, 30, shape, dtype=np.int64)
    tokens[:, 0], tokens[:, -1] = 0, 2
    tokens[-1, shape[1] // 2 :] = [2] + [1] * (shape[1] - shape[1] // 2 - 1)
    return dict(zip(names, session.run(names, {"src_tokens": tokens}), strict=True))


def case_of(
    node: onnx.NodeProto, index: int, inputs: list[list], outputs: list[list[torch.Tensor]]
) -> Case:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    naming = {name: attributes.pop(name).decode() for name in NAMING}
    version, namespace = (naming[name] for name in NAMING)
    name = f"{index}-{node.op_type}"
    return Case(name, node.op_type, attributes, inputs, outputs, (), version, namespace)


def test_every_node_lives(host: PluginHost, planned: list) -> None:
    outcomes = host.play([case for case, _ in planned], device=False)
    assert {case.plugin for case, _ in planned} >= {"LiteDynamicConv", "LiteCrfDecode", "LiteTopK"}
    for outcome in outcomes:
        assert outcome.result == "passed", outcome


@pytest.mark.gpu
def test_every_node_computes_what_onnx_runtime_computes(host: PluginHost, planned: list) -> None:
    outcomes = host.play([case for case, _ in planned])
    for (case, references), outcome in zip(planned, outcomes, strict=True):
        assert outcome.result == "passed", outcome
        for given_run, expected_run in zip(outcome.outputs, references, strict=True):
            for given, expected in zip(given_run, expected_run, strict=True):
                error = (given.double() - expected.double()).abs().max()
                limit = TOLERANCE[case.inputs[0][0].dtype] * expected.double().abs().max()
                assert error <= (limit if given.is_floating_point() else 0), case.name
