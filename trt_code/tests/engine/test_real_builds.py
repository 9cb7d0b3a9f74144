"""Every kind of graph that the surgeon writes, through TensorRT's own parser and builder, without a GPU.

The networks are small and of the public architectures. Plugin nodes are parsed with creators in Python,
made from the operators' schemas (``trt_code.engine.python_creators``). No engine is run.
"""

import contextlib
import functools
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from onnx_export import export_ar
from onnx_export.paths import half_path
from onnx_export.reference import with_reference_functions
from train_model.cli import UserError
from train_model.tests.networks import network
from trt_code import onnx_surgeon
from trt_code.engine import inspection
from trt_code.engine import profiles as shapes
from trt_code.engine.builder import BuildOptions, axis_ranges, build_plan
from trt_code.engine.capabilities import PORTABLE
from trt_code.engine.graph_files import read_graph_files
from trt_code.engine.plugin_library import default_library
from trt_code.engine.profiles import Profile, Shape, named_sizes
from trt_code.engine.python_creators import registered
from trt_code.engine.tensorrt_api import RTX, process_logger
from trt_code.tests.engine import mock_tensorrt, real_tensorrt
from trt_code.tests.engine.graphs import write_graph
from trt_code.tests.surgeon import older_export

PROFILE = Profile(Shape(1, 1), Shape(4, 6), Shape(8, 20))
FORMS = ("lite", "none")


@pytest.fixture(scope="module")
def trt():
    return real_tensorrt.tensorrt(RTX)


@pytest.fixture(scope="module")
def exports(tiny_files, tiny_build, tiny_halves, tmp_path_factory) -> Callable[[str], Path]:
    """Return a function that exports a one-pass network whole or in halves, or the steps of a search."""

    @functools.cache
    def made(kind: str) -> Path:
        if kind == "steps":
            path = tmp_path_factory.mktemp(kind) / "model.onnx"
            export_ar.write(network("dynamic"), path)
            return path
        return (tiny_build if kind == "whole" else tiny_halves) / tiny_files.name / "model.onnx"

    return made


def patched(source: Path, kind: str, folder: Path, *flags: str) -> list[Path]:
    """Return the graphs that the surgeon makes of an export, after the lint has found nothing in them."""
    output = folder / "model.patched.onnx"
    split = ["--split"] if kind == "split" else []
    given = ["--input", str(source), "--output", str(output), *split, *flags]
    assert onnx_surgeon.main(given) == 0
    halves = {"whole": [], "split": ["encoder", "decoder"], "steps": ["encoder"]}[kind]
    return [*(half_path(output, half) for half in halves), *([] if split else [output])]


def build(trt, path: Path, profile: Profile = PROFILE) -> bytes:
    graph = read_graph_files(path)
    options = BuildOptions(graph.is_tf32, compute_capabilities=PORTABLE)
    creators = (
        registered(trt) if graph.metadata.get("plugins") != "none" else contextlib.nullcontext()
    )
    with creators:
        return bytes(build_plan(trt, graph, [profile], options, axis_ranges(graph, {})))


GRAPHS = [
    # test_graphs_build.py builds the other graphs of the whole network.
    ("whole", "lite", "tf32"),
    *itertools.product(("split", "steps"), ["lite"], ("tf32", "fp16", "bf16")),
    *itertools.product(("whole", "split", "steps"), ["none"], ["bf16"]),
]
# These contain every kind of graph, both forms and every precision.
BUILT_IN_EVERY_RUN = [
    ("whole", "lite", "tf32"),
    ("split", "lite", "fp16"),
    ("steps", "lite", "bf16"),
    ("split", "none", "bf16"),
]


@pytest.mark.parametrize(
    ("kind", "plugins", "precision"),
    [
        pytest.param(*graph, marks=() if graph in BUILT_IN_EVERY_RUN else pytest.mark.slow)
        for graph in GRAPHS
    ],
)
def test_every_graph_is_built(trt, exports, tmp_path, kind, plugins, precision):
    for path in patched(
        exports(kind), kind, tmp_path, "--precision", precision, "--plugins", plugins
    ):
        model = onnx.load(path)
        assert any(node.domain for node in model.graph.node) <= (plugins == "lite")
        inspect(trt, model)
        assert len(build(trt, path)) > 10_000


def inspect(trt, model: onnx.ModelProto) -> None:
    """Compare TensorRT's types and shapes, for the smallest, usual and largest input, with the file's.

    The outputs are also compared with the shapes of ONNX Runtime's results.
    """
    runtime = onnxruntime.InferenceSession(
        with_reference_functions(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in model.graph.output]
    for sizes in named_sizes(PROFILE, shapes.default_ranges(20)):
        found = inspection.inspect(trt, model, sizes)
        assert found.differences == ()
        assert found.compared > found.known / 2
        results = runtime.run(None, {i.name: example(i, sizes) for i in model.graph.input})
        shapes_and_types = [(result.shape, result.dtype) for result in results]
        assert found.outputs == dict(zip(names, shapes_and_types, strict=True))


def example(item: onnx.ValueInfoProto, sizes: Mapping[str, int]) -> np.ndarray:
    """Return an input of these sizes that every half accepts: words, no padding, position 0."""
    kind = item.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    shape = [sizes.get(dim.dim_param, dim.dim_value) for dim in kind.shape.dim]
    return np.full(shape, 4 if item.name in ("src_tokens", "canvas", "tokens") else 0, dtype)


def test_an_inspection_finds_differences_from_the_file(trt, tmp_path):
    graph = tmp_path / "model.onnx"
    write_graph(graph)
    model = onnx.load(graph)
    tokens, scores = model.graph.output
    sizes = {"batch": 2, "src_len": 3}
    assert inspection.inspect(trt, model, sizes).differences == ()
    scores.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    tokens.type.tensor_type.shape.dim[1].dim_value = 5
    assert inspection.inspect(trt, model, sizes).differences == (
        "output_tokens has shape [2, 6] and the file says [2, 5]",
        "output_scores is FLOAT and the file says FLOAT16",
    )


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        ("Add", "must have same input types. But they are of types Half and Float."),
        ("MatMul", "must have same input types. `A` is of type Half and `B` is of type Float."),
        ("Where", "`thenInput` and `elseInput` of same types but has Half and Float."),
        ("LayerNormalization", "`input` and `scale` must have identical types."),
        ("ScatterND", "`input` and `updates` must have identical types."),
    ],
)
def test_a_node_that_reads_two_types_is_refused(trt, operator, words):
    """TensorRT inserts no casts; doc/fp16.md quotes its message."""
    assert words in (Path(onnx_surgeon.__file__).parents[1] / "doc/fp16.md").read_text()
    types = {"half": onnx.TensorProto.FLOAT16, "float": onnx.TensorProto.FLOAT}
    types |= {"choice": onnx.TensorProto.BOOL, "index": onnx.TensorProto.INT64}
    names = {"Where": ["choice", "half", "float"], "ScatterND": ["half", "index", "float"]}
    inputs = [
        onnx.helper.make_tensor_value_info(name, types[name], [2, 1 if name == "index" else 2])
        for name in names.get(operator, ["half", "float"])
    ]
    node = onnx.helper.make_node(operator, [item.name for item in inputs], ["y"])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([node], "graph", inputs, [output])
    opset = onnx.helper.make_opsetid("", 20)
    reply = real_tensorrt.build(trt, onnx.helper.make_model(graph, opset_imports=[opset]))
    assert reply.refused_by == "parser"
    assert words in reply.words


def test_the_torchscript_form_is_refused_as_it_is_and_built_when_patched(trt, tmp_path):
    older = tmp_path / "lite.onnx"
    older_export.export_older(older)
    with pytest.raises(UserError) as error:
        build(trt, older, Profile(*[Shape(2, older_export.LENGTH)] * 3))
    assert "dynamicconv_forward" in str(error.value)
    assert "Plugin not found" in str(error.value)
    for precision, plugins in itertools.product(("fp32", "fp16"), FORMS):
        (path,) = patched(older, "whole", tmp_path, "--precision", precision, "--plugins", plugins)
        assert len(build(trt, path, Profile(*[Shape(2, older_export.LENGTH)] * 3))) > 10_000


@pytest.mark.parametrize("plugins", FORMS)
def test_a_plan_is_built_with_the_compiled_plugins_too(trt, exports, tmp_path, plugins):
    """In a separate process, in which no earlier test has loaded the parser's library."""
    library = default_library(trt)
    if plugins == "lite" and not library.is_file():
        pytest.skip(f"no {library} (make plugins)")
    (path,) = patched(
        exports("whole"), "whole", tmp_path, "--precision", "fp16", "--plugins", plugins
    )
    plan = tmp_path / "model.plan"
    command = [sys.executable, "-m", "trt_code.build_engine", "--onnx", path, "--output", plan]
    reply = subprocess.run(
        [*command, "--compute-capability", "8.6"],
        env=os.environ | {"TENSORRT": "rtx"},
        capture_output=True,
        text=True,
    )
    assert reply.returncode == 0, reply.stderr
    assert f"{plan}: built by TensorRT RTX " in reply.stdout
    assert " for 8.6 in " in reply.stdout
    assert "WARNING" not in reply.stderr
    sidecar = json.loads(Path(f"{plan}.json").read_text())
    assert sidecar["compute_capabilities"] == ["8.6"]
    assert len(sidecar["plugins"]) == (plugins == "lite")


def test_a_library_gets_a_second_name_without_a_file():
    """Uses a library of the system, because TensorRT's gets its second name in any build of this process."""
    script = """
import ctypes, ctypes.util
from trt_code.engine.library_alias import preload_alias
name = ctypes.util.find_library("m")
ctypes.CDLL(name)
try:
    ctypes.CDLL("liblite_second_name.so")
except OSError:
    pass
else:
    raise SystemExit("it was there before")
preload_alias("liblite_second_name.so", name)
second = ctypes.CDLL("liblite_second_name.so")
second.cos.restype, second.cos.argtypes = ctypes.c_double, [ctypes.c_double]
assert second.cos(0.0) == 1.0
"""
    reply = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert reply.returncode == 0, reply.stderr


def answers(trt, graph: Path, logger) -> dict:
    """Return a builder's results for a graph, for profiles and for a file that is not a graph."""
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    said = {"parsed": parser.parse_from_file(str(graph)), "errors": parser.num_errors}
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    said["inputs"] = [(tensor.name, tuple(tensor.shape)) for tensor in inputs]
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape(inputs[0].name, (1, 1), (4, 6), (8, 20))
    said["profile"] = config.add_optimization_profile(profile)
    said["plan"] = builder.build_serialized_network(network, config) is not None
    return said


def test_the_mock_builds_and_refuses_as_the_library_does(trt, tmp_path, monkeypatch):
    graph = tmp_path / "model.onnx"
    write_graph(graph)
    real = answers(trt, graph, process_logger(trt))
    mock = mock_tensorrt.install(monkeypatch, version=trt.__version__)
    assert answers(mock, graph, mock_tensorrt.ILogger()) == real
    assert real["profile"] == 0
    assert real["plan"]
