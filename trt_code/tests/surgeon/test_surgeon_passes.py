"""Every pass on its own: a graph of a few nodes computes the same before and after it."""

import collections

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from onnx_export.reference import with_reference_functions
from trt_code.surgeon import fused_conv, layer_norm, plugin_nodes, top_k
from trt_code.surgeon.older import cumulative_sum, decomposed_norm, exports

HEADER = '<ir_version: 10, opset_import: ["" : 20, "lite" : 1]>'


def graph(text: str, **constants: np.ndarray) -> ir.Model:
    """A model from ONNX's text form; ``constants`` become initializers of these names."""
    model = onnx.parser.parse_model(f"{HEADER}\n{text}")
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    model = ir.serde.deserialize_model(
        onnx.shape_inference.infer_shapes(with_reference_functions(model), data_prop=True)
    )
    model.functions.clear()
    exports.complete(model)
    return model


def kinds(model: ir.Model) -> dict[str, int]:
    return dict(collections.Counter(node.op_type for node in model.graph))


def run(model: ir.Model, **feeds: np.ndarray) -> list[np.ndarray]:
    proto = with_reference_functions(ir.serde.serialize_model(model))
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def assert_same(before: list[np.ndarray], after: list[np.ndarray]) -> None:
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# --- convolution: x [B,T,6], logits [B,T,2*3] -----------------------------------------------------
CONV = """
g (float[B,T,C] x, float[B,T,6] logits, bool[B,T] padding) => (float[B,T,6] y)
<int64[4] split = {{0, 0, 2, 3}}, int64[1] last = {{-1}}, float zero = {{{fill}}}>
{{
  {before}
  columns = Transpose<perm = [0, 2, 1]>(input)
  parts = Reshape(logits, split)
  taps = Softmax<axis = {axis}>(parts)
  weight = Transpose<perm = [0, 2, 3, 1]>(taps)
  rows = lite.LiteDynamicConv<padding_l = 1>(columns, weight)
  y = Transpose<perm = {perm}>(rows)
  {after}
}}
"""
PLAIN = "input = Identity(x)"
MASK = "wide = Unsqueeze(padding, last)\n input = Where(wide, zero, x)"
GATE = "a, b = Split<num_outputs = 2, axis = -1>(x)\n s = Sigmoid(b)\n input = Mul(a, s)"
GATE_MASK = (
    "a, b = Split<num_outputs = 2, axis = -1>(x)\n s = Sigmoid(b)\n gated = Mul(s, a)\n"
    "wide = Unsqueeze(padding, last)\n input = Where(wide, zero, gated)"
)


def conv(before=PLAIN, channels=6, fill=0, axis=-1, perm="[0, 2, 1]", after="") -> ir.Model:
    text = CONV.format(before=before, fill=fill, axis=axis, perm=perm, after=after)
    return graph(text.replace("T,C]", f"T,{channels}]"))


def conv_inputs(channels=6):
    padding = np.zeros((2, 5), bool)
    padding[1, 3:] = True
    return {"x": random(2, 5, channels), "logits": random(2, 5, 6), "padding": padding}


def attributes(model: ir.Model, op_type: str) -> dict:
    (node,) = (node for node in model.graph if node.op_type == op_type)
    return {name: item.value for name, item in node.attributes.items()}


def test_taps_and_layout_go_into_the_convolution():
    model = conv()
    before = run(model, **conv_inputs())
    assert fused_conv.fuse_taps(model) == 1
    assert kinds(model) == {"Identity": 1, "LiteDynamicConv": 1}
    assert attributes(model, "LiteDynamicConv") == {
        "padding_l": 1,
        "fused": 1,
        "heads": 2,
        "kernel_size": 3,
    }
    assert_same(before, run(model, **conv_inputs()))


@pytest.mark.parametrize(
    "other",
    [
        {"axis": 2},  # a softmax over heads
        {"perm": "[0, 1, 2]"},  # the next node reads channels first
    ],
    ids=str,
)
def test_other_layouts_are_left_alone(other):
    model = conv(**other) if "axis" in other else None
    if model is None:
        text = CONV.format(before=PLAIN, fill=0, axis=-1, perm=other["perm"], after="")
        model = graph(text.replace("T,C]", "T,6]").replace("[B,T,6] y", "[B,6,T] y"))
    assert fused_conv.fuse_taps(model) == 0
    assert kinds(model)["Softmax"] == 1


def test_time_first_networks_keep_transposes_of_whole_rows_only():
    model = graph("""
g (float[T,B,6] x, float[T,B,6] logits) => (float[T,B,6] y)
<int64[4] split = {0, 0, 2, 3}>
{
  columns = Transpose<perm = [1, 2, 0]>(x)
  parts = Reshape(logits, split)
  taps = Softmax(parts)
  weight = Transpose<perm = [1, 2, 3, 0]>(taps)
  rows = lite.LiteDynamicConv<padding_l = 1>(columns, weight)
  y = Transpose<perm = [2, 0, 1]>(rows)
}
""")
    feeds = {"x": random(5, 2, 6), "logits": random(5, 2, 6)}
    before = run(model, **feeds)
    assert fused_conv.fuse_taps(model) == 1
    assert kinds(model) == {"Transpose": 3, "LiteDynamicConv": 1}
    perms = [node.attributes["perm"].value for node in model.graph if node.op_type == "Transpose"]
    assert all(list(perm) == [1, 0, 2] for perm in perms)
    assert_same(before, run(model, **feeds))


def test_mask_goes_into_the_convolution_as_int32_of_real_positions():
    model = conv(MASK)
    before = run(model, **conv_inputs())
    fused_conv.fuse_taps(model)
    assert fused_conv.fuse_mask(model) == 1
    assert kinds(model) == {"Not": 1, "Cast": 1, "LiteDynamicConv": 1}
    assert_same(before, run(model, **conv_inputs()))


@pytest.mark.parametrize("before", [MASK.replace("wide, zero, x", "wide, x, zero"), MASK])
def test_a_where_that_is_not_a_padding_mask_is_left_alone(before):
    model = conv(before, fill=1 if before is MASK else 0)
    fused_conv.fuse_taps(model)
    assert fused_conv.fuse_mask(model) == 0


def test_two_convolutions_share_one_mask():
    twice = """
  more = Transpose<perm = [0, 2, 1]>(y1)
  rows2 = lite.LiteDynamicConv<padding_l = 2>(more, weight)
  y = Transpose<perm = [0, 2, 1]>(rows2)
"""
    text = CONV.format(before=MASK, fill=0, axis=-1, perm="[0, 2, 1]", after=twice)
    text = text.replace("T,C]", "T,6]").replace("y = Transpose<perm = [0, 2, 1]>(rows)", "y0 = "
        "Transpose<perm = [0, 2, 1]>(rows)\n y1 = Where(wide, zero, y0)")  # fmt: skip
    model = graph(text)
    before = run(model, **conv_inputs())
    assert fused_conv.fuse_taps(model) == 2
    assert fused_conv.fuse_mask(model) == 2
    assert kinds(model) == {"Not": 1, "Cast": 1, "LiteDynamicConv": 2}
    assert_same(before, run(model, **conv_inputs()))


@pytest.mark.parametrize("before", [GATE, GATE_MASK])
def test_a_gate_stays_before_the_convolution(before):
    model = conv(before, channels=12)
    expected = run(model, **conv_inputs(12))
    assert fused_conv.fuse_taps(model) == 1
    assert fused_conv.fuse_mask(model) == ("Where" in before)
    assert kinds(model)["LiteDynamicConv"] == kinds(model)["Sigmoid"] == kinds(model)["Mul"] == 1
    assert "Where" not in kinds(model)
    assert_same(expected, run(model, **conv_inputs(12)))


# --- LayerNorm -------------------------------------------------------------------------------------
NORM = "g (float[B,T,6] x, float[B,T,6] r) => (float[B,T,6] y) {{ {body} }}"
WEIGHTS = {"scale": random(6) + 1, "shift": random(6)}


def norm_inputs():
    return {"x": random(2, 3, 6) * 3, "r": random(2, 3, 6)[::-1].copy()}


def test_norm_and_residual_go_into_the_plugin():
    body = "s = Add(x, r)\n y = LayerNormalization<epsilon = 0.01>(s, scale, shift)"
    model = graph(NORM.format(body=body), **WEIGHTS)
    before = run(model, **norm_inputs())
    assert layer_norm.to_plugin(model) == 1
    assert_same(before, run(model, **norm_inputs()))
    assert layer_norm.fuse_residual(model) == 1
    assert kinds(model) == {"LiteLayerNorm": 1}
    assert attributes(model, "LiteLayerNorm")["eps"] == pytest.approx(0.01)
    assert_same(before, run(model, **norm_inputs()))


@pytest.mark.parametrize(
    "body",
    [
        "s = Add(x, shift)\n y = LayerNormalization(s, scale, shift)\n z = Identity(r)",
        "s = Add(x, r)\n n = LayerNormalization(s, scale, shift)\n y = Add(n, s)",
    ],
    ids=["a bias", "a sum that is read again"],
)
def test_a_sum_that_is_not_a_residual_stays(body):
    model = graph(NORM.format(body=body), **WEIGHTS)
    before = run(model, **norm_inputs())
    assert layer_norm.to_plugin(model) == 1
    assert layer_norm.fuse_residual(model) == 0
    assert_same(before, run(model, **norm_inputs()))


SPELLED = """
  m = ReduceMean<keepdims = 1>(x, last)
  d = Sub(x, m)
  {square}
  v = ReduceMean<keepdims = 1>(q, last)
  e = Add({add})
  s = Sqrt(e)
  n = Div(d, s)
  {affine}
"""
POW = "q = Pow(d, two)"
AFFINE = "t = Mul(n, scale)\n y = Add(t, shift)"


def spelled(square=POW, add="v, eps", affine=AFFINE) -> ir.Model:
    body = SPELLED.format(square=square, add=add, affine=affine)
    return graph(
        NORM.format(body=body),
        last=np.array([-1], np.int64),
        two=np.array(2, np.float32),
        eps=np.array(0.125, np.float32),
        **WEIGHTS,
    )


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"add": "eps, v"},
        {"square": "q = Mul(d, d)"},
        {"square": "d2 = Sub(x, m)\n q = Pow(d2, two)"},
        {"affine": "t = Mul(scale, n)\n y = Add(shift, t)"},
        {"affine": "y = Mul(n, scale)"},
        {"affine": "y = Identity(n)"},
    ],
    ids=str,
)
def test_decomposed_norm_becomes_one_node(variant):
    model = spelled(**variant)
    for index, node in enumerate(model.graph):
        node.name = f"any{index}"  # the pass uses no names
    before = run(model, **norm_inputs())
    assert decomposed_norm.compose(model) == 1
    assert kinds(model)["LayerNormalization"] == 1
    assert not kinds(model).keys() & {"Div", "Sqrt", "Sub", "Pow", "ReduceMean", "Mul"}
    assert attributes(model, "LayerNormalization")["epsilon"] == 0.125
    assert_same(before, run(model, **norm_inputs()))


@pytest.mark.parametrize(
    "variant",
    [
        {"square": "three = Add(two, one)\n q = Pow(d, three)"},
        {"square": "q = Mul(d, x)"},
        {"add": "v, r"},
    ],
    ids=str,
)
def test_what_only_looks_like_a_norm_is_left_alone(variant):
    body = SPELLED.format(**({"square": POW, "add": "v, eps", "affine": AFFINE} | variant))
    model = graph(
        NORM.format(body=body),
        last=np.array([-1], np.int64),
        two=np.array(2, np.float32),
        one=np.array(1, np.float32),
        eps=np.array(0.125, np.float32),
        **WEIGHTS,
    )
    assert decomposed_norm.compose(model) == 0


# --- the rest --------------------------------------------------------------------------------------
def test_top_k_gives_int32_indices():
    text = """
g (float[B,T,9] x) => (float[B,T,4] v, int32[B,T,4] i)
{ v, wide = TopK<axis = 2>(x, k)
  i = Cast<to = 6>(wide) }
"""
    model = graph(text, k=np.array([4], np.int64))
    x = random(2, 3, 9)
    x[..., 5] = x[..., 2]  # equal values keep their order
    before = run(model, x=x)
    assert top_k.to_plugin(model) == 1
    assert kinds(model) == {"LiteTopK": 1}
    assert_same(before, run(model, x=x))


@pytest.mark.parametrize(
    "text",
    [
        "v, wide = TopK<axis = 2, largest = 0>(x, k)\n i = Cast<to = 6>(wide)",
        "v, wide = TopK<axis = 2>(x, many)\n i = Cast<to = 6>(wide)",
        "v, wide = TopK<axis = 2>(x, k)\n j = Add(wide, wide)\n i = Cast<to = 6>(j)",
    ],
    ids=["smallest", "k above the plugin's", "indices read as INT64"],
)
def test_a_top_k_that_the_plugin_does_not_support_is_left_alone(text):
    head = "g (float[B,T,99] x) => (float[B,T,K] v, int32[B,T,K] i)"
    model = graph(f"{head} {{ {text} }}", k=np.array([4]), many=np.array([65]))
    assert top_k.to_plugin(model) == 0


@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_cumulative_sum_without_a_loop(kind):
    number = {np.int64: 7, np.int32: 6}[kind]
    text = f"g (bool[B,T] x) => ({kind.__name__}[B,T] y) {{ n = Cast<to = {number}>(x)\n"
    model = graph(text + "y = CumSum(n, axis) }", axis=np.array(1, np.int64))
    x = np.random.default_rng(0).integers(0, 2, (3, 300)).astype(bool)
    before = run(model, x=x)
    assert cumulative_sum.to_product(model) == 1
    assert "CumSum" not in kinds(model)
    np.testing.assert_array_equal(run(model, x=x)[0], before[0])
    assert run(model, x=x)[0].dtype == kind


@pytest.mark.parametrize("option", ["exclusive = 1", "reverse = 1"])
def test_other_cumulative_sums_are_left_alone(option):
    text = f"g (int64[B,T] x) => (int64[B,T] y) {{ y = CumSum<{option}>(x, axis) }}"
    model = graph(text, axis=np.array(1, np.int64))
    assert cumulative_sum.to_product(model) == 0


FLAT = "g (float[2,3,4] x) => (float[2,3,4] y) {{ f = Flatten<axis = {}>(x)  s = Shape(x)\n{} }}"


def test_softmax_of_an_old_opset():
    model = graph(FLAT.format(2, "a = Softmax(f)  y = Reshape(a, s)"))
    before = run(model, x=random(2, 3, 4))
    assert exports.unflatten_softmax(model) == 1
    assert kinds(model) == {"Softmax": 1}
    assert_same(before, run(model, x=random(2, 3, 4)))


@pytest.mark.parametrize(
    ("axis", "rest"),
    [
        (1, "a = Softmax(f)  y = Reshape(a, s)"),  # over the last two axes
        (2, "a = Softmax<axis = 0>(f)  y = Reshape(a, s)"),
        (2, "a = Softmax(f)  t = Add(s, zero)  y = Reshape(a, t)"),
    ],
)
def test_another_softmax_stays_between_flatten_and_reshape(axis, rest):
    model = graph(FLAT.format(axis, rest), zero=np.array(0))
    assert exports.unflatten_softmax(model) == 0


def test_equal_of_booleans():
    model = graph("g (bool[B] a, bool[B] b) => (bool[B] y) { y = Equal(a, b) }")
    feeds = {"a": np.array([1, 1, 0, 0], bool), "b": np.array([1, 0, 1, 0], bool)}
    before = run(model, **feeds)
    assert exports.equal_of_booleans(model) == 1
    assert kinds(model) == {"Xor": 1, "Not": 1}
    np.testing.assert_array_equal(run(model, **feeds)[0], before[0])


@pytest.mark.parametrize("scatter", ["ScatterElements<axis = 1>", "ScatterND"])
def test_updates_of_a_scatter_take_the_type_of_the_data(scatter):
    text = f"""
g (int64[2,3] data, int64[2,1] at, int32[2,1] updates) => (int64[2,3] y)
{{ y = {scatter}(data, at, updates) }}
"""
    model = ir.serde.deserialize_model(onnx.parser.parse_model(f"{HEADER}\n{text}"))
    assert exports.cast_scatter_updates(model) == 1
    assert kinds(model)["Cast"] == 1
    assert exports.cast_scatter_updates(model) == 0


def test_plugin_nodes_are_marked_and_functions_stripped():
    model = conv()
    model.functions.update(
        ir.serde.deserialize_model(
            with_reference_functions(ir.serde.serialize_model(model))
        ).functions
    )
    assert plugin_nodes.strip_functions(model) == 1
    assert plugin_nodes.mark(model) == 1
    assert attributes(model, "LiteDynamicConv")["plugin_version"] == "1"
    assert attributes(model, "LiteDynamicConv")["plugin_namespace"] == ""
    assert not model.functions
