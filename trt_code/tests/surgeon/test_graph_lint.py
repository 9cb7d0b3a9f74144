"""Each rule of the lint on a graph that breaks it, and silence on one that does not."""

import json

import numpy as np
import onnx
import pytest

from train_model.cli import UserError
from trt_code import graph_lint
from trt_code.graph_lint import lint
from trt_code.lint import operators, plugins
from trt_code.tests.plugins.plugin_build import plugin_build
from trt_code.tests.surgeon.graph_texts import body, model

PLUGIN = 'plugin_version = "1", plugin_namespace = ""'
FUSED = f"padding_l = 1, fused = 1, heads = 2, kernel_size = 3, {PLUGIN}"


BAD = {
    "an operator without importer": (
        body("y, s, z = DynamicQuantizeLinear(x)", output="uint8[B,T] y"),
        "imports no such operator",
    ),
    "an operator for floats on integers": (
        body("y = CumSum(x, axis)", "int64[B,T] x", "int64[B,T] y", axis=np.array(1)),
        "INT64 is not supported here",
    ),
    "Equal of booleans": (
        body("y = Equal(x, x)", "bool[B] x", "bool[B] y"),
        "BOOL is not supported here",
    ),
    "an opset before the importer's": (body("y = Relu(x)", opset=8), "outside the importer's"),
    "an opset after the importer's": (body("y = Relu(x)", opset=22), "outside the importer's"),
    "axes from data": (
        body("y = Unsqueeze(x, axes)", "float[B,T] x, int64[1] axes", "float[1,B,T] y"),
        "axes is not a constant",
    ),
    "k from data": (
        body("y, i = TopK(x, k)", "float[B,T] x, int64[1] k"),
        "k is not a constant",
    ),
    "too large a k": (body("y, i = TopK(x, k)", k=np.array([4000])), "k=4000 is above 3840"),
    "an unsorted TopK": (
        body("y, i = TopK<sorted = 0>(x, k)", k=np.array([4])),
        "only sorted=1",
    ),
    "a shape from data": (
        body(
            "i = ArgMax<axis = 1, keepdims = 0>(x)  n = ReduceMax<keepdims = 0>(i)"
            "y = Range(zero, n, one)",
            output="int64[N] y",
            zero=np.array(0),
            one=np.array(1),
        ),
        "depends on data that i (ArgMax) gives",
    ),
    "a shape from a scatter": (
        body(
            "s = ScatterND(base, at, new)  y = Reshape(x, s)",
            base=np.array([1, 1]),
            at=np.array([[0]]),
            new=np.array([6]),
        ),
        "(ScatterND) gives",
    ),
    "a shape from an input": (
        body("y = Reshape(x, s)", "float[B,T] x, int64[2] s"),
        "the input s",
    ),
    "NonZero": (body("y = NonZero(x)", output="int64[2,N] y"), "size of its output"),
    "a reducing scatter": (
        body('y = ScatterND<reduction = "add">(x, at, x)', at=np.array([[0]])),
        "`reduction` is not supported",
    ),
    "statistics of a norm": (
        body(
            "y, m = LayerNormalization(x, s)",
            output="float[B,T] y, float[B,U] m",
            s=np.ones(4, np.float32),
        ),
        "only the first output",
    ),
    "a scatter of two types": (
        body(
            "y = ScatterElements(x, i, u)",
            "int64[2,2] x, int64[2,2] i, int32[2,2] u",
            "int64[2,2] y",
        ),
        "updates are INT32",
    ),
    "no zero point": (
        body("y = QuantizeLinear(x, s)", output="uint8[B,T] y", s=np.array(0.1, np.float32)),
        "no constant zero point",
    ),
    "a zero point that is not zero": (
        body(
            "y = QuantizeLinear(x, s, z)",
            output="int8[B,T] y",
            s=np.array(0.1, np.float32),
            z=np.array(3, np.int8),
        ),
        "not zero",
    ),
    "a zero point without sign": (
        body(
            "y = QuantizeLinear(x, s, z)",
            output="uint8[B,T] y",
            s=np.array(0.1, np.float32),
            z=np.array(0, np.uint8),
        ),
        "make it int8",
    ),
    "scales a channel without axis": (
        body(
            "q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z)",
            "float[B,2] x",
            "float[B,2] y",
            s=np.array([0.1, 0.2], np.float32),
            z=np.zeros(2, np.int8),
        ),
        "without `axis`",
    ),
    "a double output": (
        body("y = Cast<to = 11>(x)", output="double[B,T] y"),
        "DOUBLE inputs and outputs",
    ),
    "a plugin without version": (
        body("y, i = lite.LiteTopK<k = 4>(x)", output="float[B,T] y, int32[B,T] i"),
        "attribute plugin_version is missing",
    ),
    "a plugin without what it needs": (
        body(f"y = lite.LiteDynamicConv<{PLUGIN}>(x, x)"),
        "attribute padding_l is missing",
    ),
    "a fused plugin without its sizes": (
        body(f"y = lite.LiteDynamicConv<padding_l = 1, fused = 1, {PLUGIN}>(x, x)"),
        "attribute heads is missing",
    ),
    "an INT64 mask": (
        body(
            f"y = lite.LiteDynamicConv<{FUSED}>(x, x, m)",
            "float[B,T,6] x, int64[B,T] m",
            "float[B,T,6] y",
        ),
        "input m is INT64; cast it to INT32",
    ),
    "a BOOL mask": (
        body(
            f"y = lite.LiteDynamicConv<{FUSED}>(x, x, m)",
            "float[B,T,6] x, bool[B,T] m",
            "float[B,T,6] y",
        ),
        "input m is BOOL; cast it to INT32",
    ),
    "a low scale of a norm": (
        body(
            f"y = lite.LiteLayerNorm<eps = 0.1, {PLUGIN}>(x, s, s)",
            s=np.ones(4, np.float16),
        ),
        "input s is FLOAT16; cast it to FLOAT",
    ),
    "two precisions": (
        body(
            f"y = lite.LiteDynamicConv<padding_l = 1, {PLUGIN}>(x, w)",
            "float[B,T] x, float16[B,T] w",
        ),
        "input w is FLOAT16; cast it to FLOAT",
    ),
    "too few outputs": (body(f"y = lite.LiteTopK<k = 4, {PLUGIN}>(x)"), "the plugin has 2"),
    "too many inputs": (
        body(f"y, i = lite.LiteTopK<k = 4, {PLUGIN}>(x, x)", output="float[B,T] y, int32[B,T] i"),
        "2 inputs instead of 1",
    ),
    "a mask on ready weights": (
        body(
            f"y = lite.LiteDynamicConv<padding_l = 1, {PLUGIN}>(x, w, m)",
            "float[B,C,T] x, float[B,H,K,T] w, int32[B,T] m",
            "float[B,C,T] y",
        ),
        "3 inputs instead of 2",
    ),
    "an unknown form": (
        body(f"y = lite.LiteDynamicConv<padding_l = 1, fused = 2, {PLUGIN}>(x, x)"),
        "no form of LiteDynamicConv",
    ),
    "an attribute that no plugin has": (
        body(
            f"y, i = lite.LiteTopK<k = 4, largest = 1, {PLUGIN}>(x)",
            output="float[B,T] y, int32[B,T] i",
        ),
        "does not declare largest, so the parser drops it",
    ),
    "ranks of the other form": (
        body(
            f"y = lite.LiteDynamicConv<padding_l = 1, {PLUGIN}>(x, l)",
            "float[B,T,C] x, float[B,T,6] l",
            "float[B,T,C] y",
        ),
        "input l is of rank 3; give weight as [B H K T]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_rule_is_told(name):
    broken, words = BAD[name]
    findings = [str(finding) for finding in lint(broken)]
    assert any(words in finding for finding in findings), findings
    for finding in findings:
        assert "\n" not in finding
        assert finding.count(";") >= 1  # the remedy


GOOD = [
    body("s = Shape(x)  y = Reshape(x, s)"),
    body(
        "s = Shape<start = 1>(x)  n = Squeeze(s, first)  y = Range(zero, n, one)",
        output="int64[N] y",
        first=np.array([0]),
        zero=np.array(0),
        one=np.array(1),
    ),
    body("y, i = TopK(x, k)", k=np.array([32])),
    body("y = Clip(x, one)", "int64[B] x", "int64[B] y", one=np.array(1)),
    body(
        "q = QuantizeLinear<axis = 1>(x, s, z)  y = DequantizeLinear<axis = 1>(q, s, z)",
        "float[B,2] x",
        "float[B,2] y",
        s=np.array([0.1, 0.2], np.float32),
        z=np.zeros(2, np.int8),
    ),
    body(
        f"y = lite.LiteDynamicConv<{FUSED}>(x, x, m)",
        "float[B,T,6] x, int32[B,T] m",
        "float[B,T,6] y",
    ),
    body("y = Where(c, x, x)", "bool[B,T] c, float[B,T] x"),
]


@pytest.mark.parametrize("good", GOOD)
def test_what_is_right_is_not_told(good):
    assert lint(good) == []


def test_functions_left_are_told():
    left = body("y = Relu(x)")
    left.functions.add(name="LiteDynamicConv", domain="lite")
    assert "instead of the plugin" in str(lint(left)[0])


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
    """A library and a host program beside it that does what ``script`` says."""
    library = folder / "liblite_plugins_trt10.so"
    library.touch()
    program = folder / "lite_plugin_host_trt10"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return library


def test_fields_are_read_through_the_plugin_host(tmp_path):
    creators = [{"name": "LiteTopK", "version": "1", "namespace": "", "fields": {"k": "INT32"}}]
    said = json.dumps({"tensorrt_major": 10, "creators": creators})
    library = host(tmp_path, f"test $2 = --fields && echo '{said}'")
    assert plugins.find_library(tmp_path) == library
    assert plugins.declared_fields(library) == FIELDS


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
    monkeypatch.chdir(tmp_path)  # no plugin library here
    onnx.save(body("y = Relu(x)"), tmp_path / "good.onnx")
    onnx.save(BAD["NonZero"][0], tmp_path / "bad.onnx")
    assert graph_lint.main(["good.onnx"]) == 0
    assert "0 findings" in capsys.readouterr().out
    assert graph_lint.main(["bad.onnx"]) == 1
    said = capsys.readouterr().out
    assert "(NonZero): the size of its output depends on data; use a mask and Where" in said
    with pytest.raises(UserError):
        graph_lint.main(["none.onnx"])


def test_tables_name_only_operators_that_onnx_has():
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    old = {"ImageScaler", "ParametricSoftplus", "ScaledTanh", "Scatter", "Upsample"}
    assert operators.SUPPORTED.keys() - known <= old
    assert operators.SUPPORTED.keys() >= operators.SHAPE_ARITHMETIC
    assert operators.SHAPE_INPUTS.keys() <= operators.SUPPORTED.keys()
