"""Each rule of the lint on graphs that break it, and the real TensorRT on the same graphs."""

import json

import numpy as np
import onnx
import pytest

from onnx_export.reference import with_reference_functions
from train_model.cli import UserError
from trt_code import graph_lint
from trt_code.engine import inspection
from trt_code.graph_lint import lint
from trt_code.lint import library, operators, plugins
from trt_code.tests.engine import real_tensorrt
from trt_code.tests.plugins.plugin_build import plugin_build
from trt_code.tests.surgeon.graph_texts import body, model

PLUGIN = 'plugin_version = "1", plugin_namespace = ""'
FUSED = f"padding_l = 1, fused = 1, heads = 2, kernel_size = 3, {PLUGIN}"


# Per graph: words of the lint's finding, the part of TensorRT RTX 1.7.1 that refuses it, and its words.
PLUGIN_TYPES = "getOutputDataTypes reported a non-zero return code"
NOT_CREATED = "Could not create the plugin"
REFUSED = {
    "an operator without importer": (
        body("y, s, z = DynamicQuantizeLinear(x)", output="uint8[B,T] y"),
        "imports no such operator",
        "parser",
        "",
    ),
    "NonZero": (
        body("y = NonZero(x)", output="int64[2,N] y"),
        "by a plugin that it does not have",
        "parser",
        "NonZero plugin creator version 1 was not found in plugin registry",
    ),
    "a product of integers": (
        body("y = MatMul(x, x)", "int64[4,4] x", "int64[4,4] y"),
        "INT64 is not supported here",
        "parser",
        "Found unsupported input type of INT64",
    ),
    "Relu of INT32": (
        body("y = Relu(x)", "int32[B,T] x", "int32[B,T] y"),
        "INT32 is not supported here",
        "parser",
        "Found unsupported input type of INT32",
    ),
    "a type that TensorRT lacks": (
        body("y = Cast<to = 1>(x)", "uint32[B,T] x"),
        "TensorRT has no UINT32",
        "parser",
        "Failed to convert ONNX date type to TensorRT data type",
    ),
    "an axis from data": (
        body("y = CumSum(x, a)", "float[B,T] x, int64 a"),
        "axis is not a constant",
        "builder",
        "'axis' value must be a build time constant",
    ),
    "axes of Unsqueeze from data": (
        body("y = Unsqueeze(x, axes)", "float[B,T] x, int64[1] axes", "float[1,B,T] y"),
        "axes is not a constant",
        "parser",
        "unsqueeze axis is not a constant",
    ),
    "axes of Squeeze from data": (
        body("y = Squeeze(x, axes)", "float[1,T] x, int64[1] axes", "float[T] y"),
        "axes is not a constant",
        "parser",
        "squeeze axis is not a constant",
    ),
    "axes of a sum from data": (
        body("y = ReduceSum(x, axes)", "float[B,T] x, int64[1] axes"),
        "axes is not a constant",
        "parser",
        "Axis input must resolve to a build-time constant",
    ),
    "too large a k": (
        body("y, i = TopK(x, k)", "float[B,5000] x", k=np.array([4000])),
        "k=4000 is above 3840",
        "builder",
        "K exceeds the maximum value allowed (3840)",
    ),
    "a reducing ScatterND": (
        body('y = ScatterND<reduction = "add">(x, at, x)', at=np.array([[0]])),
        "`reduction` is not supported",
        "parser",
        "ScatterND with reduction is not supported",
    ),
    "a reducing ScatterElements": (
        body('y = ScatterElements<reduction = "add">(x, i, x)', "float[2,2] x, int64[2,2] i"),
        "`reduction` is not supported",
        "parser",
        "Unsupported reduction type",
    ),
    "statistics of a norm": (
        body(
            "y, m = LayerNormalization(x, s)",
            output="float[B,T] y, float[B,U] m",
            s=np.ones(4, np.float32),
        ),
        "only the first output",
        "parser",
        "1 outputs for LayerNormalization nodes",
    ),
    "positions of a maximum": (
        body(
            "y, i = MaxPool<kernel_shape = [2]>(x)",
            "float[1,3,8] x",
            "float[1,3,7] y, int64[1,3,7] i",
        ),
        "only the first output",
        "parser",
        "1 outputs for MaxPool nodes",
    ),
    "a scatter of two types": (
        body(
            "y = ScatterElements(x, i, u)",
            "int64[2,2] x, int64[2,2] i, int32[2,2] u",
            "int64[2,2] y",
        ),
        "updates are INT32",
        "parser",
        "`input` and `updates` must have identical types",
    ),
    "a zero point that is not zero": (
        body(
            "y = QuantizeLinear(x, s, z)",
            output="int8[B,T] y",
            s=np.array(0.1, np.float32),
            z=np.array(3, np.int8),
        ),
        "not zero",
        "parser",
        "Non-zero zero point is not supported",
    ),
    "a zero point of 16 bits": (
        body(
            "y = QuantizeLinear(x, s, z)",
            output="int16[B,T] y",
            s=np.array(0.1, np.float32),
            z=np.array(0, np.int16),
            opset=21,
        ),
        "make it int8",
        "parser",
        "Failed to import initializer",
    ),
    "a scale of zero": (
        body(
            "q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z)",
            s=np.array(0, np.float32),
            z=np.array(0, np.int8),
        ),
        "a scale is not positive",
        "parser",
        "Scale coefficients must all be positive",
    ),
    "a plugin without what it needs": (
        body(
            f"y = lite.LiteDynamicConv<{PLUGIN}>(x, w)",
            "float[B,4,T] x, float[B,2,3,T] w",
            "float[B,4,T] y",
        ),
        "attribute padding_l is missing",
        "parser",
        NOT_CREATED,
    ),
    "a fused plugin without its sizes": (
        body(
            f"y = lite.LiteDynamicConv<padding_l = 1, fused = 1, {PLUGIN}>(x, l)",
            "float[B,T,4] x, float[B,T,6] l",
            "float[B,T,4] y",
        ),
        "attribute heads is missing",
        "parser",
        NOT_CREATED,
    ),
    "an unknown form": (
        body(f"y = lite.LiteDynamicConv<padding_l = 1, fused = 2, {PLUGIN}>(x, x)"),
        "no form of LiteDynamicConv",
        "parser",
        NOT_CREATED,
    ),
    "an INT64 mask": (
        body(
            f"y = lite.LiteDynamicConv<{FUSED}>(x, x, m)",
            "float[B,T,6] x, int64[B,T] m",
            "float[B,T,6] y",
        ),
        "input m is INT64; cast it to INT32",
        "parser",
        PLUGIN_TYPES,
    ),
    "a BOOL mask": (
        body(
            f"y = lite.LiteDynamicConv<{FUSED}>(x, x, m)",
            "float[B,T,6] x, bool[B,T] m",
            "float[B,T,6] y",
        ),
        "input m is BOOL; cast it to INT32",
        "parser",
        PLUGIN_TYPES,
    ),
    "a low scale of a norm": (
        body(
            f"y = lite.LiteLayerNorm<eps = 0.1, {PLUGIN}>(x, s, s)",
            "float[B,4] x",
            "float[B,4] y",
            s=np.ones(4, np.float16),
        ),
        "input s is FLOAT16; cast it to FLOAT",
        "parser",
        PLUGIN_TYPES,
    ),
    "two precisions": (
        body(
            f"y = lite.LiteDynamicConv<padding_l = 1, {PLUGIN}>(x, w)",
            "float[B,4,T] x, float16[B,2,3,T] w",
            "float[B,4,T] y",
        ),
        "input w is FLOAT16; cast it to FLOAT",
        "parser",
        PLUGIN_TYPES,
    ),
    "too few outputs": (
        body(f"y = lite.LiteTopK<k = 2, {PLUGIN}>(x)"),
        "the plugin has 2",
        "parser",
        "expected output size is 2, actual output size is 1",
    ),
    "too many inputs": (
        body(f"y, i = lite.LiteTopK<k = 2, {PLUGIN}>(x, x)", output="float[B,T] y, int32[B,T] i"),
        "2 inputs instead of 1",
        "parser",
        PLUGIN_TYPES,
    ),
    "a mask on ready weights": (
        body(
            f"y = lite.LiteDynamicConv<padding_l = 1, {PLUGIN}>(x, w, m)",
            "float[B,4,T] x, float[B,2,3,T] w, int32[B,T] m",
            "float[B,4,T] y",
        ),
        "3 inputs instead of 2",
        "parser",
        PLUGIN_TYPES,
    ),
    "ranks of the other form": (
        body(
            f"y = lite.LiteDynamicConv<padding_l = 1, {PLUGIN}>(x, l)",
            "float[B,T,C] x, float[B,T,6] l",
            "float[B,T,C] y",
        ),
        "input l is of rank 3; give weight as [B H K T]",
        "parser",
        "output shape computation failed",
    ),
}

# Graphs that TensorRT builds without an error but computes differently.
SCALE = np.array(0.1, np.float32)
CHANGED = {
    "no zero point": (
        body("y = QuantizeLinear(x, s)", output="uint8[B,T] y", s=SCALE),
        "ONNX means UINT8 and TensorRT INT8",
        {"y": "INT8"},
    ),
    "a zero point without sign": (
        body(
            "y = QuantizeLinear(x, s, z)", output="uint8[B,T] y", s=SCALE, z=np.array(0, np.uint8)
        ),
        "make it int8",
        {"y": "INT8"},
    ),
    "a double output": (
        body("y = Cast<to = 11>(x)", output="double[B,T] y"),
        "TensorRT makes FLOAT of DOUBLE",
        {"y": "FLOAT"},
    ),
}

# Graphs that the lint once refused, after onnx-tensorrt 10.1's source, and that TensorRT RTX 1.7.1 builds.
BUILT = {
    "sums of integers": body("y = CumSum(x, a)", "int64[B,T] x", "int64[B,T] y", a=np.array(1)),
    "Equal of booleans": body("y = Equal(x, x)", "bool[B] x", "bool[B] y"),
    "a body": model("""
g (float[T,2] x, float[2] s) => (float[2] e, float[T,2] y)
{ e, y = Scan <num_scan_inputs = 1, body = step (float[2] a, float[2] b) => (float[2] c, float[2] d)
  { c = Add(a, b)  d = Identity(c) }> (s, x) }
"""),
    "opset 8": body("y = Relu(x)", opset=8),
    "opset 22": body("y = Relu(x)", opset=22),
    "k from data": body("y, i = TopK(x, k)", "float[B,9] x, int64[1] k"),
    "an unsorted TopK": body("y, i = TopK<sorted = 0>(x, k)", k=np.array([2])),
    "axes that are computed": body(
        "a = Add(one, one)  y = Unsqueeze(x, a)", output="float[B,T,1] y", one=np.array([1])
    ),
    "a range from data": body(
        "i = ArgMax<axis = 1, keepdims = 0>(x)  n = ReduceMax<keepdims = 0>(i)"
        "y = Range(zero, n, one)",
        output="int64[N] y",
        zero=np.array(0),
        one=np.array(1),
    ),
    "a shape from a scatter": body(
        "s = ScatterND(base, at, v)  y = Reshape(x, s)",
        base=np.array([1, 1]),
        at=np.array([[0]]),
        v=np.array([-1]),
    ),
    "a shape from an input": body("y = Reshape(x, s)", "float[B,T] x, int64[2] s"),
    "a scale per channel without axis": body(
        "q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z)",
        "float[B,2] x",
        "float[B,2] y",
        s=np.array([0.1, 0.2], np.float32),
        z=np.zeros(2, np.int8),
    ),
    "a plugin without version": body(
        "y, i = lite.LiteTopK<k = 2>(x)", output="float[B,2] y, int32[B,2] i"
    ),
}

# Correct graphs.
GOOD = {
    "a shape from Shape": body("s = Shape(x)  y = Reshape(x, s)"),
    "a range from Shape": body(
        "s = Shape<start = 1>(x)  n = Squeeze(s, first)  y = Range(zero, n, one)",
        output="int64[N] y",
        first=np.array([0]),
        zero=np.array(0),
        one=np.array(1),
    ),
    "TopK": body("y, i = TopK(x, k)", "float[B,5000] x", k=np.array([3840])),
    "Clip of integers": body("y = Clip(x, one)", "int64[B] x", "int64[B] y", one=np.array(1)),
    "Q/DQ": body(
        "q = QuantizeLinear<axis = 1>(x, s, z)  y = DequantizeLinear<axis = 1>(q, s, z)",
        "float[B,2] x",
        "float[B,2] y",
        s=np.array([0.1, 0.2], np.float32),
        z=np.zeros(2, np.int8),
    ),
    "a fused convolution": body(
        f"y = lite.LiteDynamicConv<{FUSED}>(x, x, m)",
        "float[B,T,6] x, int32[B,T] m",
        "float[B,T,6] y",
    ),
    "Where": body("y = Where(c, x, x)", "bool[B,T] c, float[B,T] x"),
}


@pytest.mark.parametrize("name", REFUSED | CHANGED)
def test_a_broken_rule_is_found(name):
    broken, words = (REFUSED | CHANGED)[name][:2]
    findings = [str(finding) for finding in lint(broken)]
    assert any(words in finding for finding in findings), findings
    for finding in findings:
        assert "\n" not in finding
        assert finding.count(";") >= 1  # the advice


@pytest.mark.parametrize("name", BUILT | GOOD)
def test_a_correct_graph_has_no_findings(name):
    assert lint((BUILT | GOOD)[name]) == []


@pytest.mark.parametrize("name", REFUSED)
def test_tensorrt_refuses_what_the_lint_finds(name):
    broken, _, refused_by, words = REFUSED[name]
    reply = real_tensorrt.build(real_tensorrt.tensorrt(), broken)
    assert reply.refused_by == refused_by, reply
    assert words in reply.words


@pytest.mark.parametrize("name", CHANGED)
def test_tensorrt_changes_what_the_lint_finds(name):
    broken, _, types = CHANGED[name]
    reply = real_tensorrt.build(real_tensorrt.tensorrt(), broken)
    assert (reply.refused_by, reply.types) == ("", types)
    declared = broken.graph.output[0].type.tensor_type.elem_type
    assert onnx.TensorProto.DataType.Name(declared) not in types.values()


@pytest.mark.parametrize("name", BUILT | GOOD)
def test_tensorrt_builds_what_the_lint_passes(name):
    reply = real_tensorrt.build(real_tensorrt.tensorrt(), (BUILT | GOOD)[name])
    assert reply.refused_by == "", reply


def test_tensorrt_uses_a_function_instead_of_the_plugin():
    trt = real_tensorrt.tensorrt()
    node = f"y, i = lite.LiteTopK<k = 2, {PLUGIN}>(x)"
    clean = body(node, output="float[B,2] y, int32[B,2] i")
    assert real_tensorrt.build(trt, clean).plugins == 1
    left = with_reference_functions(clean, native=True)
    assert "instead of the plugin" in str(lint(left)[0])
    assert real_tensorrt.build(trt, left).plugins == 0


def test_tensorrt_builds_a_node_whose_attribute_nobody_declares():
    undeclared = body(
        f"y, i = lite.LiteTopK<k = 2, largest = 0, {PLUGIN}>(x)",
        output="float[B,2] y, int32[B,2] i",
    )
    assert ["does not declare largest, so the parser drops it" in str(f) for f in lint(undeclared)]
    assert real_tensorrt.build(real_tensorrt.tensorrt(), undeclared).refused_by == ""


def test_table_of_operators_is_that_of_the_library():
    trt = real_tensorrt.tensorrt()
    if trt.__name__ == "tensorrt_rtx" and trt.__version__.startswith("1.7"):
        assert operators.supported() == operators.KNOWN
    assert {"MatMul", "LayerNormalization", "TopK"} <= operators.supported()


@pytest.mark.parametrize("op_type", sorted(operators.CONSTANT_INPUTS))
def test_axes_must_be_constants(op_type):
    """In opset 20 each of these has its axes as an input, at a fixed position."""
    scalar = "" if op_type == "CumSum" else "[1]"
    graph = body(f"y = {op_type}(x, a)", f"float[1,T] x, int64{scalar} a", "float[M,N] y")
    assert any("not a constant" in str(finding) for finding in lint(graph))
    reply = real_tensorrt.build(real_tensorrt.tensorrt(), graph)
    assert reply.refused_by


@pytest.mark.parametrize(
    ("op_type", "kind"),
    [
        (name, kind)
        for name, kinds in sorted(operators.REFUSED_TYPES.items())
        for kind in sorted(kinds)
    ],
)
def test_types_that_importers_refuse(op_type, kind):
    name = onnx.TensorProto.DataType.Name(kind).lower()
    inputs = {"Gemm": "x, x", "MatMul": "x, x"}.get(op_type, "x")
    graph = body(f"y = {op_type}({inputs})", f"{name}[4,4] x", f"{name}[4,4] y")
    assert any("is not supported here" in str(finding) for finding in lint(graph))
    assert real_tensorrt.build(real_tensorrt.tensorrt(), graph).refused_by


FIELDS = {"LiteTopK": {"k": "INT32"}}


@pytest.mark.parametrize(
    ("attribute", "fields", "words"),
    [
        ("k = 4, extra = 1", FIELDS, "does not declare extra"),
        ("k = 4.0", FIELDS, "arrives as FLOAT32"),
        ("k = 4", {}, "no such plugin"),
        ("k = 4", FIELDS, None),
        ("k = 4, extra = 1", None, "does not declare extra"),
        ("k = 4.0", None, "arrives as FLOAT32"),
    ],
)
def test_attributes_against_declared_fields(attribute, fields, words):
    node = f"y, i = lite.LiteTopK<{attribute}, {PLUGIN}>(x)"
    findings = lint(body(node, output="float[B,T] y, int32[B,T] i"), fields)
    assert [words in str(finding) for finding in findings] == ([True] if words else [])


def host(folder, script: str):
    """Make a library, and in its folder a host program that runs ``script``."""
    library = folder / "liblite_plugins_trt10.so"
    library.touch()
    program = folder / "lite_plugin_host_trt10"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return library


def test_fields_are_read_through_the_plugin_host(tmp_path):
    creators = [{"name": "LiteTopK", "version": "1", "namespace": "", "fields": {"k": "INT32"}}]
    said = json.dumps({"tensorrt_major": 10, "creators": creators})
    built = host(tmp_path, f"test $2 = --fields && echo '{said}'")
    assert plugins.find_library(tmp_path) == built
    assert plugins.declared_fields(built) == FIELDS


@pytest.mark.parametrize("case", ["no library", "no host", "a host that fails"])
def test_a_library_that_cannot_be_read(case, tmp_path):
    library = host(tmp_path, "echo cannot load >&2; exit 2")
    if case == "no library":
        library.unlink()
    elif case == "no host":
        (tmp_path / "lite_plugin_host_trt10").unlink()
    words = "cannot load" if case == "a host that fails" else "make plugins"
    with pytest.raises(UserError, match=words):
        plugins.declared_fields(library)
    if case != "a host that fails":
        assert plugins.find_library(tmp_path) is None


@pytest.mark.tensorrt_headers
def test_what_the_surgeon_writes_is_declared_by_the_plugins_that_are_built():
    whole = model(
        f"""
g (float[B,T,8] x, float[B,T,6] l, float[B,T,8] r, int32[B,T] m) => (int32[B,T] t, float[B,T] s)
{{
  c = lite.LiteDynamicConv<padding_l = 1, fused = 1, heads = 2, kernel_size = 3, {PLUGIN}>
    (x, l, m)
  n = lite.LiteLayerNorm<eps = 0.1, {PLUGIN}>(c, w, w, r)
  v, i = lite.LiteTopK<k = 4, {PLUGIN}>(n)
  t, s = lite.LiteCrfDecode<{PLUGIN}>(v, i, e, e, m)
}}
""",
        w=np.ones(8, np.float32),
        e=np.ones((8, 2), np.float32),
    )
    assert lint(whole, plugin_build().host().fields()) == []


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # without a plugin library
    onnx.save(body("y = Relu(x)"), tmp_path / "good.onnx")
    onnx.save(REFUSED["NonZero"][0], tmp_path / "bad.onnx")
    assert graph_lint.main(["good.onnx"]) == 0
    said = capsys.readouterr().out
    trt = library.installed()
    assert "0 findings" in said
    assert ("parsed by " if trt else "no TensorRT here") in said
    assert graph_lint.main(["bad.onnx"]) == 1
    said = capsys.readouterr().out
    assert (
        "y (NonZero): TensorRT RTX imports it by a plugin that it does not have; use a mask" in said
    )
    with pytest.raises(UserError):
        graph_lint.main(["none.onnx"])


def test_weights_in_a_file_of_their_own_are_parsed(tmp_path, capsys):
    """As for weights above 2 GiB; the parser runs in another folder than the graph's."""
    trt = real_tensorrt.tensorrt()
    path = tmp_path / "large.onnx"
    large = body("y = Add(x, h)", "float[4,4] x", "float[4,4] y", h=np.ones((4, 4), np.float32))
    onnx.save(large, path, save_as_external_data=True, location="large.data", size_threshold=0)
    graph = onnx.load(path, load_external_data=False)
    assert graph_lint.report(graph, path) == graph_lint.main([str(path)]) == 0
    assert "0 findings" in capsys.readouterr().out
    assert inspection.inspect(trt, graph, {}, path).outputs["y"][0] == (4, 4)


def test_the_parser_reports_what_no_rule_knows(tmp_path, capsys, monkeypatch):
    real_tensorrt.tensorrt()
    monkeypatch.chdir(tmp_path)
    mixed = body("c = Cast<to = 10>(x)  z = Add(c, h)  y = Cast<to = 1>(z)", h=np.float32(1))
    assert lint(mixed) == []
    onnx.save(mixed, tmp_path / "mixed.onnx")
    assert graph_lint.main(["mixed.onnx"]) == 1
    said = capsys.readouterr().out
    assert "(Add): TensorRT" in said
    assert "must have same input types" in said
    assert "1 findings" in said


def test_tables_name_only_operators_that_onnx_has():
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    assert known >= operators.KNOWN
    assert operators.CONSTANT_INPUTS.keys() <= operators.KNOWN
    assert operators.REFUSED_TYPES.keys() | operators.NEEDS_PLUGIN <= operators.KNOWN
