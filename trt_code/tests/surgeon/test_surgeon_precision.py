"""The plan of the precisions, on graphs of a few nodes."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from onnx_export.reference import with_reference_functions
from train_model.cli import UserError
from trt_code import onnx_surgeon
from trt_code.surgeon.older import exports as exports
from trt_code.surgeon.precision import apply_plan, make_plan
from trt_code.surgeon.ranges import measure

HEADER = '<ir_version: 10, opset_import: ["" : 20, "lite" : 1]>'
FP16 = ir.DataType.FLOAT16


def graph(text: str, **constants: np.ndarray) -> ir.Model:
    """Return a graph that looks tokens [B,T] up in a table [7,4] and continues with ``text`` on x [B,T,4]."""
    head = "g (int64[B,T] tokens) => (float[B,T,N] y) { x = Gather(table, tokens)\n"
    model = onnx.parser.parse_model(f"{HEADER}\n{head}{text} }}")
    generator = np.random.default_rng(0)
    square = generator.standard_normal((4, 4)).astype(np.float32)
    constants = {"table": square[[0, 1, 2, 3, 0, 1, 2]], "w": square.T.copy()} | constants
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model))
    exports.complete(model)
    return model


def convert(model: ir.Model, low: ir.DataType = FP16):
    """Return the kept nodes with their reasons, and the casts."""
    plan = make_plan(model, low, measure(model))
    kept = {node.outputs[0].name: why for node, why in plan.kept.items() if node.op_type != "Cast"}
    casts = apply_plan(model, plan)
    onnx.checker.check_model(ir.serde.serialize_model(model), full_check=True)
    return kept, casts


def run(model: ir.Model) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        with_reference_functions(ir.serde.serialize_model(model)).SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    return session.run(None, {"tokens": np.array([[0, 4, 5, 6, 2], [0, 6, 2, 1, 1]])})[0]


def types(model: ir.Model) -> dict[str, ir.DataType]:
    return {value.name: value.dtype for value in model.graph.initializers.values()}


@pytest.mark.parametrize("low", [FP16, ir.DataType.BFLOAT16])
def test_a_chain_is_low_with_one_cast_at_the_output(low):
    model = graph("a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, w)  y = Identity(c)")
    before = run(model)
    kept, casts = convert(model, low)
    assert kept == {}
    assert len(casts) == 1
    assert types(model) == {"table": low, "w": low}
    output = model.graph.outputs[0]
    assert (output.name, output.dtype) == ("y", ir.DataType.FLOAT)
    difference = np.abs(run(model) - before).max()
    assert 0 < difference < (0.02 if low == FP16 else 0.2)


def test_one_cast_serves_all_readers():
    model = graph("m = ReduceMean(x, last)  a = Sqrt(x)  b = Exp(x)  y = Sum(m, a, b)", last=[-1])
    kept, casts = convert(model)
    assert set(kept) == {"m", "a", "b", "y"}
    assert casts == ["x (Gather): FLOAT16 to FLOAT"]


def test_what_overflows_stays_fp32_and_finite():
    big = np.full((4, 4), 3000, np.float32)
    text = "a = MatMul(x, big)  b = MatMul(a, big)  c = Mul(b, small)  y = MatMul(c, w)"
    model = graph(text, big=big, small=np.array(1e-8, np.float32))
    before = run(model)
    kept, _ = convert(model)
    assert set(kept) == {"b", "c"}
    assert "ends at 6.55e+04" in kept["b"]
    after = run(model)
    assert np.isfinite(after).all()
    np.testing.assert_allclose(after, before, rtol=0.05, atol=1e-3)


def test_a_weight_out_of_range_keeps_its_node():
    model = graph("y = MatMul(x, heavy)", heavy=np.eye(4, dtype=np.float32) * 1e5)
    kept, _ = convert(model)
    assert "y" in kept
    assert types(model)["heavy"] == ir.DataType.FLOAT


@pytest.mark.parametrize("least", [np.finfo(np.float32).min, -np.inf])
@pytest.mark.parametrize("view", ["masked", "view"])
def test_a_mask_is_not_an_overflow_and_its_constant_becomes_finite(least, view):
    text = f"""
  k = Transpose<perm = [0, 2, 1]>(x)
  scores = MatMul(x, k)
  padding = Equal(tokens, one)
  wide = Unsqueeze(padding, axis)
  masked = Where(wide, least, scores)
  s = Shape(scores)
  view = Reshape(masked, s)
  weights = Softmax({view})
  y = MatMul(weights, x)
"""
    model = graph(text, one=np.array(1), axis=[1], least=np.array(least, np.float32))
    before = run(model)
    kept, _ = convert(model)
    assert kept == {}
    assert model.graph.initializers["least"].const_value.numpy() == np.finfo(np.float16).min
    np.testing.assert_allclose(run(model), before, atol=0.01)


def test_a_softmax_over_large_scores_stays_fp32_back_to_its_product():
    text = """
  k = Transpose<perm = [0, 2, 1]>(x)
  large = Mul(k, hundred)
  scores = MatMul(x, large)
  shifted = Add(scores, one)
  weights = Softmax(shifted)
  y = MatMul(weights, x)
"""
    model = graph(text, hundred=np.array(100, np.float32), one=np.array(1, np.float32))
    before = run(model)
    kept, _ = convert(model)
    why = "softmax over scores"
    assert {name for name in kept if kept[name].startswith(why)} == {"scores", "shifted", "weights"}
    np.testing.assert_allclose(run(model), before, atol=0.1)


def test_a_choice_and_the_product_before_it_stay_fp32():
    text = """
  m = ReduceMean<keepdims = 0>(x, axis)
  logits = MatMul(m, w)
  i = ArgMax<axis = 1>(logits)
  y = Gather(table, i)
"""
    model = graph(text, axis=[1])
    kept, casts = convert(model)
    assert set(kept) == {"m", "logits", "i"}
    assert "x (Gather): FLOAT16 to FLOAT" in casts


def test_log_probabilities_stay_fp32():
    """A large logit minus a large log-sum-exp: rounding both to FP16 would lose the difference."""
    wide = np.eye(4, dtype=np.float32) * 20.3
    model = graph(
        "a = MatMul(x, wide)  i = ArgMax <axis = -1> (a)  b = GatherElements <axis = -1> (a, i)"
        "c = Transpose <perm = [0, 1, 2]> (b)  s = ReduceLogSumExp(a, last)  d = Sub(c, s)  y = Neg(d)",
        wide=wide,
        last=[-1],
        table=np.array([[1, 0.9, 0.8, 0.7]] * 7, np.float32),
    )
    before = run(model)
    kept, _ = convert(model)
    assert {name for name, why in kept.items() if why == "log-probabilities"} == {"c", "d", "y"}
    np.testing.assert_allclose(run(model), before, atol=2e-3)


def test_counts_stay_fp32():
    text = """
  padding = Equal(tokens, one)
  n = Cast<to = 1>(padding)
  turned = Transpose(n)
  pairs = MatMul(turned, n)
  i = Cast<to = 7>(pairs)
  j = Clip(i, zero, three)
  row = Gather(table, j)
  y = ReduceSum(row, axis)
"""
    model = graph(text, one=np.array(1), zero=np.array(0), three=np.array(3), axis=[0])
    kept, _ = convert(model)
    assert kept["turned"] == kept["pairs"] == "counts positions"


def test_an_unknown_type_is_refused():
    model = graph("y = MatMul(x, w)")
    plan = make_plan(model, FP16, measure(model))
    next(iter(model.graph)).outputs[0].type = None
    with pytest.raises(UserError, match="not known"):
        apply_plan(model, plan)


def test_a_step_with_a_state_keeps_its_types_outside():
    """Float inputs and outputs stay FP32; with an unknown state, ranges come only from weights."""
    text = """
g (int64[B] tokens, float[B,4] state) => (float[B,4] next, float[B,4] y)
{ x = Gather(table, tokens)  next = Add(x, state)  a = MatMul(next, w)  y = MatMul(a, heavy) }
"""
    model = onnx.parser.parse_model(f"{HEADER}\n{text}")
    weights = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    for name, array in {"table": weights, "w": weights.T, "heavy": weights * 1e6}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model.metadata_props.add(key="architecture", value="transformer_multibranch_v2")
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model))
    exports.complete(model)
    report = onnx_surgeon.patch(model, "fp16")
    assert [node.outputs[0].name for node in report.plan.kept] == ["y"]
    assert "state (input): FLOAT to FLOAT16" in report.casts
    values = (*model.graph.inputs, *model.graph.outputs)
    assert {value.name: value.dtype for value in values} == {
        "tokens": ir.DataType.INT64,
        "state": ir.DataType.FLOAT,
        "next": ir.DataType.FLOAT,
        "y": ir.DataType.FLOAT,
    }
    onnx.checker.check_model(ir.serde.serialize_model(model), full_check=True)
