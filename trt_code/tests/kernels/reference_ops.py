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


def linear_glu_fp8(x, weight, bias, mask, alpha, dtype, fp8_factor):
    return glu_mask(linear_fp8(x, weight, bias, None, False, alpha, dtype), mask, fp8_factor)


def linear_norm(x, weight, bias, alpha, residual, scale, shift, eps, after, fp8_factor):
    wide = torch.promote_types(residual.dtype, torch.float32)
    bias = None if bias is None else bias.to(wide)
    y = linear(x.to(wide) * alpha, weight.to(wide), bias, residual.to(wide), False, False)
    y = layer_norm(y, None, scale, shift, eps)
    y = y if after is None else y + after
    results = [y.to(residual.dtype)]
    return results if fp8_factor is None else [*results, to_fp8(y, fp8_factor)]


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


def copy_source(lengths, width, queries, keys, embedded, source_mask, embedding, positions):
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


def past_rows(ancestors, rows, position):
    """The row of every position up to ``position`` of each hypothesis [N, position + 1]."""
    if ancestors is None:
        return torch.arange(rows)[:, None].expand(-1, position + 1)
    return ancestors[position % 2, :, : position + 1].long()


def past(state, ancestors, position):
    """The positions up to ``position`` of each hypothesis [N, position + 1, width]."""
    at = past_rows(ancestors, len(state), position).to(state.device)
    return state[at, torch.arange(position + 1, device=state.device)]


def attend_past(qkv, keys, values, ancestors, position, heads, out):
    now = int(position)
    query, key, value = qkv.chunk(3, -1)
    keys[:, now], values[:, now] = key, value
    q, k, v = (
        x.unflatten(-1, (heads, -1)).transpose(1, 2)
        for x in (query[:, None], past(keys, ancestors, now), past(values, ancestors, now))
    )
    out.copy_(((q @ k.transpose(2, 3)).softmax(-1) @ v).transpose(1, 2).flatten(1))


def attend_source(query, keys, values, mask, heads):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, keys, values))
    weights = masked_softmax(q @ k.transpose(2, 3), mask[:, None, None])
    return (weights @ v).transpose(1, 2).flatten(2)


def convolve_step(x, weight, inputs, ancestors, position, heads, glu, softmax, out):
    now, taps = int(position), weight.transpose(0, 1).flatten(1)
    kernel_size = len(taps) // heads
    x = F.glu(x, -1) if glu else x
    inputs[:, now] = x
    logits = F.linear(x, taps).unflatten(-1, (heads, kernel_size))
    logits = logits.softmax(-1) if softmax else logits
    window = past(inputs, ancestors, now)[:, -kernel_size:]
    window = F.pad(window, (0, 0, kernel_size - window.shape[1], 0)).unflatten(-1, (heads, -1))
    out.copy_(torch.einsum("nhk,nkhc->nhc", logits, window).flatten(1))


def embed_step(tokens, parents, position, embedding, positions, scale, ancestors):
    now = int(position)
    x = scale * F.embedding(tokens, embedding)
    if positions is not None:
        x = x + positions[now + PAD + 1]
    if ancestors is not None:
        rows = torch.arange(tokens.numel(), device=tokens.device)
        parent = rows - rows % tokens.shape[1] + parents.flatten()
        ancestors[now % 2, :, :now] = ancestors[(now + 1) % 2, parent, :now]
        ancestors[now % 2, :, now] = rows
    return x


def choose_step(
    logits, forbidden, kinds, tokens, parents, totals, step, done, past_tokens, past_parents,
    past_totals, count, end_at, end_total, counters,
):  # fmt: skip
    batch, beam, vocab = logits.shape
    now = int(step)
    scores = logits.float().log_softmax(-1) + forbidden[kinds[now]]
    scores = (scores + totals[..., None]).flatten(1)
    candidates, index = top_k(scores, 2 * beam)
    origin, token = index.long() // vocab, index.long() % vocab
    for sentence in range(batch):
        alive = []
        for rank in range(2 * beam):
            value = candidates[sentence, rank]
            if token[sentence, rank] != EOS or value == -torch.inf:
                alive.append(rank)
            elif rank < beam and count[sentence] < beam:
                end_at[sentence, count[sentence]] = origin[sentence, rank] + now * beam
                end_total[sentence, count[sentence]] = value
                count[sentence] += 1
        best = alive[:beam]
        for all_steps, own, chosen in (
            (past_tokens, tokens, token),
            (past_parents, parents, origin),
            (past_totals, totals, candidates),
        ):
            all_steps[now, sentence] = own[sentence] = chosen[sentence, best]
    done.fill_(bool((count == beam).all()))
    step += 1


def gates_in_product(x):
    return x.dtype != torch.float8_e4m3fn and x.shape[:-1].numel() <= 64


def norms_in_product(x, weight, dtype):
    return x.shape[:-1].numel() > 64


def self_conv_fits(channels, heads, kernel_size, padding_l, dtype):
    return channels % (2 * heads) == 0


def attention_fits(channels, heads, dtype):
    width = channels // heads
    return width <= 128 and (width % 16 == 0 or dtype == torch.float32)


def why_not_attend_step(channels, heads, positions, dtype):
    if channels % heads:
        return "channels must be a positive multiple of heads"
    if channels // heads > 1024:
        return "a head must have at most 1,024 channels"
    return None if positions <= 4096 else "positions must be 1 to 4,096"


def why_not_convolve_step(channels, heads, kernel_size, dtype):
    if channels % heads:
        return "channels must be a positive multiple of heads"
    if channels % (16 // dtype.itemsize):
        return "channels must fill vectors of 16 bytes"
    fits = 4 * (channels + heads * kernel_size + kernel_size) <= 96 * 1024
    return None if fits else "channels and taps of a row must fit into 96 KiB"


def why_not_choose_step(beam, vocab, dtype):
    if beam > 16:
        return "the beam must be 1 to 16"
    return None if vocab > 2 * beam else "the vocabulary must be larger than twice the beam"


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
    linear_glu_fp8: "(Tensor x, Tensor weight, Tensor? bias, Tensor? mask, float alpha, "
    "ScalarType dtype, float? fp8_factor) -> Tensor",
    linear_norm: "(Tensor x, Tensor weight, Tensor? bias, float alpha, Tensor residual, "
    "Tensor scale, Tensor shift, float eps, Tensor? after, float? fp8_factor) -> Tensor[]",
    gates_in_product: "(Tensor x) -> bool",
    norms_in_product: "(Tensor x, Tensor weight, ScalarType dtype) -> bool",
    layer_norm_add: "(Tensor x, Tensor scale, Tensor shift, float eps, Tensor after) -> Tensor",
    self_conv: "(Tensor x, Tensor weight, Tensor? mask, int heads, int kernel_size, "
    "int padding_l, bool glu, bool tf32=False, float? fp8_factor=None) -> Tensor",
    attention: "(Tensor query, Tensor keys_values, Tensor mask, int layer, int heads, "
    "bool tf32=False, float? fp8_factor=None) -> Tensor",
    embed_source: "(Tensor tokens, Tensor embedding, Tensor positions) -> (Tensor, Tensor, Tensor)",
    predict_length: "(Tensor x, Tensor mask, Tensor weight, Tensor limits, int offset, "
    "bool relative) -> Tensor",
    copy_source: "(Tensor lengths, int width, Tensor queries, Tensor keys, Tensor embedded, "
    "Tensor source_mask, Tensor embedding, Tensor positions) -> (Tensor, Tensor)",
    top_k: "(Tensor x, int k) -> (Tensor, Tensor)",
    attend_past: "(Tensor qkv, Tensor(a!) keys, Tensor(b!) values, Tensor? ancestors, "
    "Tensor position, int heads, Tensor(c!) out) -> ()",
    attend_source: "(Tensor query, Tensor keys, Tensor values, Tensor mask, int heads) -> Tensor",
    convolve_step: "(Tensor x, Tensor weight, Tensor(a!) inputs, Tensor? ancestors, "
    "Tensor position, int heads, bool glu, bool softmax, Tensor(b!) out) -> ()",
    embed_step: "(Tensor tokens, Tensor parents, Tensor position, Tensor embedding, "
    "Tensor? positions, float scale, Tensor(a!)? ancestors) -> Tensor",
    choose_step: "(Tensor logits, Tensor forbidden, Tensor kinds, Tensor(a!) tokens, "
    "Tensor(b!) parents, Tensor(c!) totals, Tensor(d!) step, Tensor(e!) done, "
    "Tensor(f!) past_tokens, Tensor(g!) past_parents, Tensor(h!) past_totals, "
    "Tensor(i!) count, Tensor(j!) end_at, Tensor(k!) end_total, Tensor(l!) counters) -> ()",
}
# These say whether a kernel supports the sizes. They take no tensors, which would name the device.
QUESTIONS = {
    self_conv_fits: "(int channels, int heads, int kernel_size, int padding_l, ScalarType dtype) -> bool",
    attention_fits: "(int channels, int heads, ScalarType dtype) -> bool",
    why_not_attend_step: "(int channels, int heads, int positions, ScalarType dtype) -> str?",
    why_not_convolve_step: "(int channels, int heads, int kernel_size, ScalarType dtype) -> str?",
    why_not_choose_step: "(int beam, int vocab, ScalarType dtype) -> str?",
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


def as_tuple(result: Tensor | tuple[Tensor, ...] | list[Tensor]) -> tuple[Tensor, ...]:
    """Return an operator's results as a tuple."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Return the Frobenius norm of the difference divided by that of the exact result, in float64."""
    exact = exact.double()
    return ((actual.double() - exact).norm() / exact.norm().clamp(min=1e-30)).item()
