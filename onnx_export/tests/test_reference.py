"""The reference forms of plugin nodes against PyTorch, and the rounding that low precision gets."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from onnx_export.reference import with_reference_functions
from onnx_export.rounding import rounded_in_float32
from onnx_export.symbols import FUNCTIONS
from train_model.ops import dynamic_conv

HEADER = '<ir_version: 10, opset_import: ["" : 20, "lite" : 1]>'
PLUGIN = 'plugin_version = "1", plugin_namespace = ""'


def run(text: str, **feeds: torch.Tensor) -> list[torch.Tensor]:
    model = with_reference_functions(onnx.parser.parse_model(f"{HEADER}\n{text}"))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    outputs = session.run(None, {name: value.numpy() for name, value in feeds.items()})
    return [torch.from_numpy(output) for output in outputs]


def fused_by_definition(x, logits, mask, heads, kernel_size, padding_l):
    """Mask, then a convolution by the softmax over each head's taps."""
    if mask is not None:
        x = x * mask[:, :, None]
    weight = logits.unflatten(-1, (heads, kernel_size)).softmax(-1).permute(0, 2, 3, 1)
    return dynamic_conv(x.transpose(1, 2), weight, padding_l).transpose(1, 2)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [1, 7])
def test_fused_convolution(masked, length):
    torch.manual_seed(0)
    x, logits = torch.randn(3, length, 8), torch.randn(3, length, 2 * 5)
    mask = (torch.rand(3, length) < 0.6).int() if masked else None
    inputs = "x, logits" + (", mask" if masked else "")
    (y,) = run(
        f"""
g (float[B,T,C] x, float[B,T,10] logits, int32[B,T] mask) => (float[B,T,8] y)
{{ y = lite.LiteDynamicConv<padding_l = 3, fused = 1, heads = 2, kernel_size = 5, {PLUGIN}>
     ({inputs}) }}
""",
        x=x,
        logits=logits,
        mask=torch.ones(3, length, dtype=torch.int32) if mask is None else mask,
    )
    torch.testing.assert_close(y, fused_by_definition(x, logits, mask, 2, 5, 3))


@pytest.mark.parametrize("residual", [False, True])
def test_layer_norm(residual):
    torch.manual_seed(0)
    x, r = torch.randn(2, 3, 6) * 5 + 1, torch.randn(2, 3, 6)
    scale, shift = torch.randn(2, 6)
    (y,) = run(
        f"""
g (float[B,T,6] x, float[6] s, float[6] b, float[B,T,6] r) => (float[B,T,6] y)
{{ y = lite.LiteLayerNorm<eps = 0.01, {PLUGIN}>(x, s, b{", r" if residual else ""}) }}
""",
        x=x,
        s=scale,
        b=shift,
        r=r,
    )
    total = x + r if residual else x
    expected = torch.nn.functional.layer_norm(total, (6,), scale, shift, 0.01)
    torch.testing.assert_close(y, expected)


def test_top_k_takes_the_first_of_equal_values():
    x = torch.tensor([[1.0, 3, 2, 3, 2], [0, 0, 0, 0, 0]])
    text = f"""
g (float[B,5] x) => (float[B,3] v, int32[B,3] i) {{ v, i = lite.LiteTopK<k = 3, {PLUGIN}>(x) }}
"""
    values, indices = run(text, x=x)
    assert values.tolist() == [[3, 3, 2], [0, 0, 0]]
    assert indices.tolist() == [[1, 3, 2], [0, 1, 2]]
    assert indices.dtype == torch.int32


def test_only_called_functions_are_included():
    text = f"g (float[B,5] x) => (float[B,3] v) {{ v, i = lite.LiteTopK<k = 3, {PLUGIN}>(x) }}"
    model = with_reference_functions(onnx.parser.parse_model(f"{HEADER}\n{text}"))
    assert [function.name for function in model.functions] == ["LiteTopK"]
    assert with_reference_functions(model) == model


def test_a_node_without_a_function_is_refused():
    text = "g (float[B] x) => (float[B] y) { y = lite.LiteOther(x) }"
    with pytest.raises(ValueError, match="LiteOther"):
        with_reference_functions(onnx.parser.parse_model(f"{HEADER}\n{text}"))


def test_functions_declare_the_attributes_that_they_use():
    for function in FUNCTIONS.values():
        used = {a.ref_attr_name for node in function.node for a in node.attribute} - {""}
        assert used == set(function.attribute)


# --- rounding --------------------------------------------------------------------------------------
LOW = {torch.float16: (10, "float16"), torch.bfloat16: (16, "bfloat16")}


def steps(dtype) -> onnx.ModelProto:
    """x + x - x, and x times a constant, each step in low precision."""
    number, name = LOW[dtype]
    text = f"""
g (float[N] wide) => (float[N] y, float[N] z)
<{name}[N] x, {name}[N] double, {name}[N] back, {name}[N] product>
{{
  x = Cast<to = {number}>(wide)
  double = Add(x, x)
  back = Sub(double, x)
  y = Cast<to = 1>(back)
  product = Mul(x, third)
  z = Cast<to = 1>(product)
}}
"""
    model = onnx.parser.parse_model(f"{HEADER}\n{text}")
    third = onnx.helper.make_tensor("third", number, [], [1 / 3])
    model.graph.initializer.append(third)
    return model


@pytest.mark.parametrize("dtype", LOW)
def test_every_step_is_rounded(dtype):
    wide = torch.cat([torch.randn(50), torch.tensor([60000.0, 1e-7, 3e38])])
    session = onnxruntime.InferenceSession(
        rounded_in_float32(steps(dtype)).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    y, z = session.run(None, {"wide": wide.numpy()})
    x = wide.to(dtype)
    expected = ((x + x) - x).float()
    np.testing.assert_array_equal(y, expected.numpy())
    np.testing.assert_array_equal(z, (x * torch.tensor(1 / 3, dtype=dtype)).float().numpy())
    assert np.isinf(y[50]) == (dtype == torch.float16)  # 60000 + 60000 overflows, and stays so


def test_a_model_without_low_precision_stays_as_it_is():
    text = "g (float[N] x) => (float[N] y) { a = Relu(x)  y = Add(a, a) }"
    model = onnx.parser.parse_model(f"{HEADER}\n{text}")
    assert rounded_in_float32(model) == model


def test_what_cannot_be_rounded_is_refused():
    text = "g (float16[N] x) => (float16[N] y) { y = Add(x, x) }"
    with pytest.raises(ValueError, match="FP16"):
        rounded_in_float32(onnx.parser.parse_model(f"{HEADER}\n{text}"))
    untyped = steps(torch.float16)
    del untyped.graph.value_info[:]
    with pytest.raises(ValueError, match="not known"):
        rounded_in_float32(untyped)
