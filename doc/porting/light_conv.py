"""A second operator taken from fairseq to TensorRT's door: the lightweight convolution; see doc/porting.md.

    python doc/porting/light_conv.py

Runs every station on random numbers, prints how far each is from the float64 definition, and exits with
status 1 if one is too far.
"""

import logging
import sys
import warnings
from pathlib import Path

import onnx
import onnxruntime
import torch
from onnxscript import FLOAT, script
from onnxscript import opset20 as op
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from onnx_export.symbols.domain import DOMAIN, LITE, VERSION
from onnx_export.symbols.schema import NAMING, Attribute, Form, Operator, TensorSpec, Type

# --- 1. The definition: slow, in float64, and obviously right -------------------------------------


def definition(x: Tensor, weight: Tensor, padding_l: int) -> Tensor:
    """``y[b, c, t] = sum_k weight[h(c), k] x[b, c, t + k - padding_l]``; x [B, C, T], weight [H, K]."""
    x, weight = x.double(), weight.double()
    (batch, channels, length), (heads, taps) = x.shape, weight.shape
    y = torch.zeros(batch, channels, length, dtype=torch.float64)
    for c in range(channels):
        for t in range(length):
            for k in range(taps):
                if 0 <= t + k - padding_l < length:
                    y[:, c, t] += weight[c // (channels // heads), k] * x[:, c, t + k - padding_l]
    return y


# --- 2. The PyTorch operator: a name that the exporter can see, and a gradient --------------------


@torch.library.custom_op("lite_example::light_conv", mutates_args=())
def light_conv(x: Tensor, weight: Tensor, padding_l: int) -> Tensor:
    """Convolve x [B, C, T] with the taps [H, K] of its heads; C is a multiple of H.

    Raises:
        ValueError: shapes or ``padding_l`` do not fit each other.
    """
    _check(x, weight, padding_l)
    rows = weight.repeat_interleave(x.shape[1] // weight.shape[0], 0)[:, None]
    padded = F.pad(x, (padding_l, weight.shape[1] - 1 - padding_l))
    return F.conv1d(padded, rows, groups=x.shape[1])


@light_conv.register_fake
def _(x: Tensor, weight: Tensor, padding_l: int) -> Tensor:
    _check(x, weight, padding_l)
    return x.new_empty(x.shape)


def _check(x: Tensor, weight: Tensor, padding_l: int) -> None:
    if x.dim() != 3 or weight.dim() != 2 or x.shape[1] % weight.shape[0]:
        raise ValueError(
            "light_conv: x must be [B, C, T] and weight [H, K] with C a multiple of H; "
            f"got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    if not 0 <= padding_l < weight.shape[1]:
        raise ValueError(
            f"light_conv: padding_l={padding_l} is not within 0..{weight.shape[1] - 1}"
        )


def _setup_context(ctx, inputs, output) -> None:
    x, weight, ctx.padding_l = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    (x, weight), padding_l = ctx.saved_tensors, ctx.padding_l
    (heads, taps), length = weight.shape, x.shape[2]
    grad_x = light_conv(grad, weight.flip(1), taps - 1 - padding_l)
    padded = F.pad(x, (padding_l, taps - 1 - padding_l))
    columns = [(grad * padded[..., k : k + length]).sum((0, 2)) for k in range(taps)]
    return grad_x, torch.stack(columns, 1).unflatten(0, (heads, -1)).sum(1), None


light_conv.register_autograd(_backward, setup_context=_setup_context)


class LightConv(nn.Module):
    """The layer, with the parameter of fairseq's ``LightweightConv1d``; x [B, C, T]."""

    def __init__(self, heads: int, kernel_size: int, padding_l: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, 1, kernel_size))
        nn.init.xavier_uniform_(self.weight)
        self.padding_l = padding_l

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        return light_conv(x, self.weight[:, 0].softmax(-1), self.padding_l)


# --- 3. The ONNX node, and the function that lets any runtime compute it --------------------------


def translate(x: FLOAT, weight: FLOAT, padding_l: int) -> FLOAT:
    """Write one node for ``lite_example::light_conv``."""
    return NODE.exported(x, weight, padding_l=padding_l, heads=weight.shape[0])


@script(LITE, default_opset=op)
def LiteLightConv(x: FLOAT, weight: FLOAT, padding_l: int, heads: int) -> FLOAT:
    """Channels of a head go into the batch, so that the groups of Conv are the heads."""
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    rest = op.Constant(value_ints=[-1])
    left = op.Constant(value_ints=[0]) + padding_l
    groups = op.Shape(weight, start=0, end=1)
    right = op.Shape(weight, start=1, end=2) - one - left
    batch = op.Shape(x, start=0, end=1)
    length = op.Shape(x, start=2, end=3)
    split = op.Reshape(x, op.Concat(batch, groups, rest, length, axis=0))
    turned = op.Transpose(split, perm=[0, 2, 1, 3])
    rows = op.Reshape(turned, op.Concat(rest, groups, length, axis=0))
    padded = op.Pad(rows, op.Concat(zero, zero, left, zero, zero, right, axis=0))
    y = op.Conv(padded, op.Unsqueeze(weight, one), group=heads)
    back = op.Transpose(op.Reshape(y, op.Shape(turned)), perm=[0, 2, 1, 3])
    return op.Reshape(back, op.Shape(x))


NODE = Operator(
    "LiteLightConv",
    "Depthwise convolution with one row of taps per head.",
    forms=[
        Form(
            inputs=[TensorSpec("x", Type.DATA, "B C T"), TensorSpec("weight", Type.DATA, "H K")],
            outputs=[TensorSpec("y", Type.DATA, "B C T")],
            functions=[LiteLightConv],
        )
    ],
    attributes={
        "padding_l": Attribute(int, "zeros before the sentence"),
        "heads": Attribute(int, "H, which Conv needs as a number"),
    },
)


def export(module: nn.Module, x: Tensor) -> onnx.ModelProto:
    """One graph with dynamic batch and length, the node in it and its function next to it."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # remarks on absent packages
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            module,
            (x,),
            dynamo=True,
            opset_version=20,
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes=({0: torch.export.Dim("batch"), 2: torch.export.Dim("length")},),
            custom_translation_table={torch.ops.lite_example.light_conv.default: translate},
            verbose=False,
        )
    model = program.model_proto
    model.functions.append(LiteLightConv.to_function_proto())
    if not any(entry.domain == DOMAIN for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    onnx.checker.check_model(model, full_check=True)
    return model


# --- 4. The graph for TensorRT: a plugin's name on the node, and no function ----------------------


def patch(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy as TensorRT's parser wants it."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        if node.op_type == "LiteLightConv":
            for name, value in NAMING.items():
                node.attribute.append(onnx.helper.make_attribute(name, value))
    del result.functions[:]
    return result


def runnable(patched: onnx.ModelProto) -> onnx.ModelProto:
    """The patched graph with the function put back, to run what TensorRT will get."""
    result = onnx.ModelProto()
    result.CopyFrom(patched)
    for node in result.graph.node:
        kept = [item for item in node.attribute if not item.name.startswith("plugin_")]
        del node.attribute[:]
        node.attribute.extend(kept)
    result.functions.append(LiteLightConv.to_function_proto())
    return result


def run(model: onnx.ModelProto, x: Tensor) -> Tensor:
    """The graph in ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def main() -> int:
    """Live every station; 1 if one is off."""
    torch.manual_seed(0)
    layer = LightConv(heads=4, kernel_size=5, padding_l=4).eval()
    exported = export(layer, torch.randn(2, 12, 7))
    patched = patch(exported)
    worst = dict.fromkeys(("PyTorch operator", "exported file", "patched file"), 0.0)
    for batch, length in ((1, 1), (1, 3), (3, 9), (2, 33)):
        x = torch.randn(batch, 12, length)
        expected = definition(x, layer.weight[:, 0].detach().softmax(-1), layer.padding_l)
        with torch.no_grad():
            results = (layer(x), run(exported, x), run(runnable(patched), x))
        for name, result in zip(worst, results, strict=True):
            worst[name] = max(worst[name], (result - expected).abs().max().item())
    node = next(node for node in patched.graph.node if node.op_type == "LiteLightConv")
    for name, error in worst.items():
        print(f"{name:18} largest difference from the definition: {error:.1e}")
    print(f"node for the plugin: {node.op_type}, {', '.join(item.name for item in node.attribute)}")
    return int(max(worst.values()) > 1e-6)


if __name__ == "__main__":
    sys.exit(main())
