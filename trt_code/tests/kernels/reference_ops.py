"""The GPU-only operators written out in PyTorch, as references; ``register`` offers them on the CPU.

On a machine without the CUDA library this lets the fused network run, slowly, so that its wiring can be
tested against the plain one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from train_model.models.layers import masked_softmax, token_positions

BOS, PAD, EOS = 0, 1, 2


def to_fp8(x, fp8_factor):
    return (x * fp8_factor).clamp(-448, 448).to(torch.float8_e4m3fn)


def reader_takes(x, fp8_factor):
    return x if fp8_factor is None else to_fp8(x, fp8_factor)


def linear_fp8(x, weight, bias, residual, relu, alpha, dtype):
    wide = [None if part is None else part.float() for part in (bias, residual)]
    y = linear(x.float() * alpha, weight.float(), *wide, relu, False)
    return to_fp8(y, 1.0) if dtype == torch.float8_e4m3fn else y.to(dtype)


def linear(x, weight, bias, residual, relu, tf32):
    y = F.linear(x, weight, bias)
    y = y if residual is None else y + residual
    return y.relu() if relu else y


def layer_norm(x, residual, scale, shift, eps):
    wide = torch.promote_types(x.dtype, torch.float32)
    total = sum(part.to(wide) for part in (x, residual) if part is not None)
    return F.layer_norm(total, scale.shape, scale.to(wide), shift.to(wide), eps).to(x.dtype)


def glu_mask(x, mask, fp8_factor=None):
    y = F.glu(x, -1)
    return reader_takes(y if mask is None else y * (mask != 0)[..., None], fp8_factor)


def dynamic_conv_fused(x, logits, mask, heads, kernel_size, padding_l):
    x = x if mask is None else x * (mask != 0)[..., None]
    taps = logits.unflatten(-1, (heads, kernel_size)).softmax(-1)
    windows = F.pad(x, (0, 0, padding_l, kernel_size - 1 - padding_l)).unfold(1, kernel_size, 1)
    return torch.einsum("bthk,bthck->bthc", taps, windows.unflatten(2, (heads, -1))).flatten(2)


def self_conv(x, weight, mask, heads, kernel_size, padding_l, glu, tf32=False, fp8_factor=None):
    x = F.glu(x, -1) if glu else x
    logits = F.linear(x, weight)
    y = dynamic_conv_fused(x, logits, mask, heads, kernel_size, padding_l)
    return reader_takes(y, fp8_factor)


def linear_glu(x, weight, bias, mask, tf32):
    return glu_mask(F.linear(x, weight, bias), mask)


def layer_norm_add(x, scale, shift, eps, after):
    return layer_norm(x, None, scale, shift, eps) + after


def layer_norm_fp8(x, scale, shift, eps, after, fp8_factor):
    wide = layer_norm(x.float(), None, scale, shift, eps)
    y = wide if after is None else wide + after
    return y.to(x.dtype), to_fp8(y, fp8_factor)


def attention(query, keys_values, mask, layer, heads, tf32=False, fp8_factor=None):
    pair = keys_values.chunk(keys_values.shape[-1] // query.shape[-1], -1)[
        2 * layer : 2 * layer + 2
    ]
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, *pair))
    weights = masked_softmax(q @ k.transpose(2, 3), mask[:, None, None] == 0)
    return reader_takes((weights @ v).transpose(1, 2).flatten(2), fp8_factor)


def embed_source(tokens, embedding, positions):
    embedded = F.embedding(tokens, embedding)
    x = embedded + F.embedding(token_positions(tokens), positions)
    return x, embedded, tokens.ne(PAD).int()


def predict_length(x, mask, weight, limits, offset, relative):
    count = mask.sum(1)
    pooled = (x * mask[:, :, None]).sum(1) / count.clamp(min=1)[:, None]
    lengths = F.linear(pooled, weight).argmax(-1) + offset + (count if relative else 0)
    return torch.minimum(lengths.clamp(min=2), limits)


def copy_source(
    lengths, width, queries, keys, embedded, source_mask, embedding, positions, rounded=False
):
    t = torch.arange(width, device=keys.device)
    last = lengths[:, None] - 1
    real = t <= last
    token = torch.where(t == 0, BOS, torch.where(t == last, EOS, PAD))
    query = queries[PAD + 1 : PAD + 1 + width].expand(len(lengths), -1, -1)
    weights = masked_softmax(query @ keys.transpose(1, 2), source_mask[:, None] == 0)
    unknown = (t > 0) & (t < last)
    x = torch.where(unknown[:, :, None], weights @ embedded, F.embedding(token, embedding))
    at = F.embedding(torch.where(real, t + PAD + 1, PAD), positions)
    return x + at, real.int()


def top_k(x, k):
    values, indices = torch.sort(x, stable=True, dim=-1, descending=True)
    return values[..., :k].contiguous(), indices[..., :k].int().contiguous()


def gates_in_product(x):
    return x.shape[:-1].numel() <= 64


def self_conv_fits(channels, heads, kernel_size, padding_l, dtype):
    return channels % (2 * heads) == 0


SCHEMAS = {
    linear: "(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, bool relu, bool tf32) -> Tensor",
    layer_norm: "(Tensor x, Tensor? residual, Tensor scale, Tensor shift, float eps) -> Tensor",
    to_fp8: "(Tensor x, float fp8_factor) -> Tensor",
    linear_fp8: "(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, bool relu, float alpha, "
    "ScalarType dtype) -> Tensor",
    layer_norm_fp8: "(Tensor x, Tensor scale, Tensor shift, float eps, Tensor? after, "
    "float fp8_factor) -> (Tensor, Tensor)",
    glu_mask: "(Tensor x, Tensor? mask, float? fp8_factor=None) -> Tensor",
    dynamic_conv_fused: "(Tensor x, Tensor logits, Tensor? mask, int heads, int kernel_size, "
    "int padding_l) -> Tensor",
    linear_glu: "(Tensor x, Tensor weight, Tensor? bias, Tensor? mask, bool tf32) -> Tensor",
    gates_in_product: "(Tensor x) -> bool",
    layer_norm_add: "(Tensor x, Tensor scale, Tensor shift, float eps, Tensor after) -> Tensor",
    self_conv: "(Tensor x, Tensor weight, Tensor? mask, int heads, int kernel_size, "
    "int padding_l, bool glu, bool tf32=False, float? fp8_factor=None) -> Tensor",
    attention: "(Tensor query, Tensor keys_values, Tensor mask, int layer, int heads, "
    "bool tf32=False, float? fp8_factor=None) -> Tensor",
    embed_source: "(Tensor tokens, Tensor embedding, Tensor positions) -> (Tensor, Tensor, Tensor)",
    predict_length: "(Tensor x, Tensor mask, Tensor weight, Tensor limits, int offset, "
    "bool relative) -> Tensor",
    copy_source: "(Tensor lengths, int width, Tensor queries, Tensor keys, Tensor embedded, "
    "Tensor source_mask, Tensor embedding, Tensor positions, bool rounded=False) -> (Tensor, Tensor)",
    top_k: "(Tensor x, int k) -> (Tensor, Tensor)",
}
# These say which kernel supports the sizes. They take no tensors, which would name the device.
QUESTIONS = {
    self_conv_fits: "(int channels, int heads, int kernel_size, int padding_l, ScalarType dtype) -> bool",
}


def register() -> torch.library.Library:
    """Offer the references as CPU implementations while the given library object exists."""
    library = torch.library.Library("lite", "FRAGMENT")
    for function, schema in SCHEMAS.items():
        if not hasattr(torch.ops.lite, function.__name__):
            library.define(function.__name__ + schema)
        library.impl(function.__name__, function, "CPU")
    for function, schema in QUESTIONS.items():
        if not hasattr(torch.ops.lite, function.__name__):
            library.define(function.__name__ + schema)
            library.impl(function.__name__, function, "CompositeExplicitAutograd")
    return library


def as_tuple(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return an operator's results as a list."""
    return result if isinstance(result, tuple) else (result,)


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Return the Frobenius norm of the difference divided by that of the exact result, in float64."""
    exact = exact.double()
    return ((actual.double() - exact).norm() / exact.norm().clamp(min=1e-30)).item()
