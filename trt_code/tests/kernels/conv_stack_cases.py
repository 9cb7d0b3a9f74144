"""Cases of the fused convolution stack."""

import pytest
import torch
from torch.nn import functional as F

from trt_code.cuda_graph.packing import LayerWeights
from trt_code.cuda_graph.stack import ConvStack, StackLayer
from trt_code.tests.kernels import reference_ops

on_hopper = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() != (9, 0),
    reason="the kernel is for Hopper",
)


EPS = 1e-5


def layer(generator, dtype, heads, ffn, kernel_size, padding_l, attends):
    width = 64 * heads

    def matrix(rows, columns):
        values = torch.randn(rows, columns, device="cuda", generator=generator)
        return (values * columns**-0.5).to(dtype)

    def vector(count, scale=0.3, around=0.0):
        return torch.randn(count, device="cuda", generator=generator) * scale + around

    def norm(name):
        return {f"{name}_norm_scale": vector(width, 0.2, 1.0), f"{name}_norm_shift": vector(width)}

    rows = (2 * width, 2 * width, heads * kernel_size, width)
    weights = [matrix(n, width) for n in rows] + [matrix(ffn, width), matrix(width, ffn)]
    constants = {"linear1_bias": vector(2 * width), "conv_linear1_bias": vector(2 * width)}
    constants |= {"linear2_bias": vector(width)} | norm("conv")
    if attends:
        weights += [matrix(width, width), matrix(width, width)]
        constants |= {"query_bias": vector(width), "out_bias": vector(width)} | norm("attention")
    constants |= {"fc1_bias": vector(ffn), "fc2_bias": vector(width)} | norm("ffn")
    constants = {name: x.to(dtype).float() for name, x in constants.items()}
    return StackLayer(LayerWeights(*weights), constants, kernel_size, padding_l)


def reference(layers, heads, mask_conv, x, mask, keys_values, source_mask, positions, dtype):
    """The layers one operator at a time, in ``dtype``."""
    as_dtype = lambda x: None if x is None else x.to(dtype)  # noqa: E731
    x, keys_values, positions = map(as_dtype, (x, keys_values, positions))

    def norm(x, name, constants):
        scale, shift = (constants[f"{name}_norm_{part}"].to(dtype) for part in ("scale", "shift"))
        return F.layer_norm(x, scale.shape, scale, shift, EPS)

    for i, each in enumerate(layers):
        weights, given = each.weights, each.constants

        def linear(x, weight, bias=None):
            return F.linear(x, weight.to(dtype), None if bias is None else bias.to(dtype))

        h = reference_ops.glu_mask(linear(x, weights.linear1, given["linear1_bias"]), mask)
        g = F.glu(linear(h, weights.conv_linear1, given["conv_linear1_bias"]), -1)
        logits = linear(g, weights.taps)
        keep = mask if mask_conv else None
        shape = heads, each.kernel_size, each.padding_l
        y = reference_ops.dynamic_conv_fused(g, logits, keep, *shape)
        x = norm(x + linear(y, weights.linear2, given["linear2_bias"]), "conv", given)
        if keys_values is not None:
            query = linear(x, weights.query, given["query_bias"])
            found = reference_ops.attention(query, keys_values, source_mask, i, heads)
            x = norm(x + linear(found, weights.out, given["out_bias"]), "attention", given)
        inner = linear(x, weights.fc1, given["fc1_bias"]).relu()
        x = norm(x + linear(inner, weights.fc2, given["fc2_bias"]), "ffn", given)
        if positions is not None and i + 1 < len(layers):
            x = x + positions
    return x


def make(dtype, batch, length, heads, ffn, source=0, kernel_sizes=(3, 15), masked=False):
    """Return random layers: the stack, its layers and its arguments."""
    generator = torch.Generator("cuda").manual_seed(0)
    width = 64 * heads

    def tensor(*shape):
        return torch.randn(shape, device="cuda", generator=generator).to(dtype)

    paddings = [k - 1 if source else k // 2 for k in kernel_sizes]
    layers = [
        layer(generator, dtype, heads, ffn, k, padding, source > 0)
        for k, padding in zip(kernel_sizes, paddings, strict=True)
    ]

    def mask_of(rows, columns):
        real = torch.tensor([max(0, columns - 3 * (i % 7)) for i in range(rows)])
        return (torch.arange(columns) < real[:, None]).int().cuda()

    x = tensor(batch, length, width)
    keys_values = tensor(batch, source, 2 * len(layers) * width) if source else None
    source_mask = mask_of(batch, source) if source else None
    positions = tensor(length, width) if source else None
    mask = mask_of(batch, length) if masked else None

    stack = ConvStack(layers, heads, EPS, mask_conv=masked)
    assert stack.fits(x, keys_values)
    return stack, layers, (x, mask, keys_values, source_mask, positions)
