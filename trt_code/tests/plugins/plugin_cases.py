"""Cases for the plugin host, one maker per plugin, with reference results in float64.

The makers draw shapes that the plugin's contract allows and shapes that it forbids. ``allowed`` says
which; it follows the contract, not the plugins' code.
"""

import dataclasses
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from onnx_export.symbols import OPERATORS
from onnx_export.symbols.schema import Type
from trt_code.plugin_host.host import Attribute, Case

DATA_TYPES = (torch.float32, torch.float16, torch.bfloat16)
INT32 = torch.int32
FLOAT = torch.float32
FIXED = {Type.FP32: FLOAT, Type.INT32: INT32}  # types of tensors that are not data
MAX_KERNEL, MAX_BEAM, MAX_LENGTH, MAX_K = 255, 64, 512, 64
MAX_ELEMENTS = 2**40  # per tensor


@dataclass(frozen=True)
class Planned:
    """A case and its expected result.

    Attributes:
        allowed: whether the contract allows it; otherwise the plugin must refuse it.
        references: for each run the outputs in float64 (integers as they are); empty without data.
    """

    case: Case
    allowed: bool = True
    references: list[list[Tensor]] = field(default_factory=list)


def make_case(
    name: str,
    plugin: str,
    attributes: dict[str, Attribute],
    inputs: Sequence[Sequence[Tensor]],
    outputs: Sequence[Sequence[Tensor]],
) -> Case:
    """The case, with the combinations of types that the operator's schema allows."""
    form = OPERATORS[plugin].form(attributes)
    tensors = (*form.inputs[: len(inputs[0])], *form.outputs)
    accepted = [tuple(FIXED.get(tensor.type, data) for tensor in tensors) for data in DATA_TYPES]
    return Case(name, plugin, attributes, inputs, outputs, accepted)


def conv(
    shapes: Sequence[Sequence[int]],
    dtype: torch.dtype = FLOAT,
    *,
    heads: int,
    kernel: int,
    padding_l: int,
    seed: int | None = None,
    specials: bool = False,
    name: str = "conv",
) -> Planned:
    """LiteDynamicConv with ready weights; ``shapes`` are [B, C, T] for each run."""
    rng = _generator(seed)
    inputs, references = [], []
    for batch, channels, length in shapes:
        x = _normal((batch, channels, length), dtype, rng, specials)
        weight = _normal((batch, heads, kernel, length), dtype, rng)
        if rng is not None:
            weight = weight.float().softmax(2).to(dtype)
            references.append([convolve(x.double(), weight.double(), padding_l)])
        inputs.append([x, weight])
    outputs = [[_like(run[0])] for run in inputs]
    attributes = {"padding_l": padding_l}
    case = make_case(name, "LiteDynamicConv", attributes, inputs, outputs)
    allowed = _conv_allowed(shapes[0][1], heads, kernel, padding_l)
    return Planned(case, allowed, references)


def fused_conv(
    shapes: Sequence[Sequence[int]],
    dtype: torch.dtype = FLOAT,
    *,
    heads: int,
    kernel: int,
    padding_l: int,
    mask: bool = False,
    seed: int | None = None,
    specials: bool = False,
    name: str = "fused-conv",
) -> Planned:
    """LiteDynamicConv with fused=1; ``shapes`` are [B, T, C] of the output for each run."""
    rng = _generator(seed)
    inputs, references = [], []
    for batch, length, channels in shapes:
        x = _normal((batch, length, channels), dtype, rng, specials)
        logits = _normal((batch, length, heads * kernel), dtype, rng)
        run = [x, logits] + ([_mask(batch, length, rng)] if mask else [])
        if rng is not None:
            y = x.double()
            y = y.where(run[2][..., None] != 0, 0.0) if mask else y
            taps = logits.double().unflatten(2, (heads, kernel)).softmax(3).permute(0, 2, 3, 1)
            references.append([convolve(y.transpose(1, 2), taps, padding_l).transpose(1, 2)])
        inputs.append(run)
    attributes: dict[str, Attribute] = {"padding_l": padding_l, "fused": 1}
    attributes |= {"heads": heads, "kernel_size": kernel}
    outputs = [[torch.empty(shape, dtype=dtype, device="meta")] for shape in shapes]
    case = make_case(name, "LiteDynamicConv", attributes, inputs, outputs)
    return Planned(case, _conv_allowed(shapes[0][2], heads, kernel, padding_l), references)


def layer_norm(
    shapes: Sequence[Sequence[int]],
    dtype: torch.dtype = FLOAT,
    *,
    residual: bool = False,
    eps: float = 1e-5,
    seed: int | None = None,
    specials: bool = False,
    name: str = "layer-norm",
) -> Planned:
    """LiteLayerNorm; ``shapes`` are those of x for each run."""
    rng = _generator(seed)
    inputs, references = [], []
    for shape in shapes:
        run = [_normal(shape, dtype, rng, specials)]
        run += [_normal(shape[-1:], FLOAT, rng) for _ in range(2)]
        run += [_normal(shape, dtype, rng)] if residual else []
        if rng is not None:
            x = run[0].double() + (run[3].double() if residual else 0)
            scale, shift = run[1].double(), run[2].double()
            references.append([F.layer_norm(x, shape[-1:], scale, shift, eps)])
        inputs.append(run)
    outputs = [[_like(run[0])] for run in inputs]
    case = make_case(name, "LiteLayerNorm", {"eps": eps}, inputs, outputs)
    return Planned(case, eps >= 0, references)


def crf_decode(
    shapes: Sequence[Sequence[int]],
    dtype: torch.dtype = FLOAT,
    *,
    vocab: int,
    rank: int,
    seed: int | None = None,
    name: str = "crf-decode",
) -> Planned:
    """LiteCrfDecode; ``shapes`` are [B, T, K] for each run.

    Every value is a small multiple of 1/4, so all sums are exact in every type. There are many ties, and
    the rule decides them, not rounding.
    """
    rng = _generator(seed)
    inputs, references = [], []
    for batch, length, beam in shapes:
        tables = [_quarters((vocab, rank), dtype, rng) for _ in range(2)]
        emissions = _quarters((batch, length, beam), dtype, rng)
        targets = _integers((batch, length, beam), vocab, rng)
        run = [emissions, targets, *tables, _mask(batch, length, rng)]
        if rng is not None:
            references.append(list(viterbi(*run)))
        inputs.append(run)
    outputs = [
        [torch.empty(b, t, dtype=kind, device="meta") for kind in (INT32, FLOAT)]
        for b, t, _ in shapes
    ]
    case = make_case(name, "LiteCrfDecode", {}, inputs, outputs)
    allowed = all(t <= MAX_LENGTH and 1 <= k <= MAX_BEAM for _, t, k in shapes)
    return Planned(case, allowed, references)


def top_k(
    shapes: Sequence[Sequence[int]],
    dtype: torch.dtype = FLOAT,
    *,
    k: int,
    seed: int | None = None,
    specials: bool = False,
    name: str = "top-k",
) -> Planned:
    """LiteTopK; ``shapes`` are those of x for each run. The values hold many ties, and NaN is largest."""
    rng = _generator(seed)
    inputs = [[_quarters(shape, dtype, rng)] for shape in shapes]
    if rng is not None and specials:
        inputs = [[_with_specials(x, rng)] for (x,) in inputs]
    references = []
    if rng is not None:
        for (x,) in inputs:
            values, indices = x.double().sort(descending=True, stable=True)
            references.append([values[..., :k], indices[..., :k].int()])
    outputs = [
        [torch.empty(*shape[:-1], k, dtype=kind, device="meta") for kind in (dtype, INT32)]
        for shape in shapes
    ]
    case = make_case(name, "LiteTopK", {"k": k}, inputs, outputs)
    allowed = 1 <= k <= MAX_K and all(k <= shape[-1] for shape in shapes)
    return Planned(case, allowed, references)


def usual(*, data: bool) -> list[Planned]:
    """Return a few allowed cases per plugin: every type, several runs, odd widths and lengths of 1."""
    planned = []
    for index, dtype in enumerate(DATA_TYPES):
        given = {"dtype": dtype, "seed": index if data else None}
        kind = str(dtype).removeprefix("torch.")
        conv_shapes = [(2, 24, 17), (1, 24, 1), (3, 24, 33)]
        planned += [
            conv(conv_shapes, heads=4, kernel=5, padding_l=2, name=f"conv-{kind}", **given),
            conv([(2, 33, 40)], heads=3, kernel=31, padding_l=30, name=f"causal-{kind}", **given),
        ]
        fused_shapes = [(2, 19, 40), (1, 1, 40), (3, 64, 40)]
        planned += [
            fused_conv(
                fused_shapes,
                heads=8,
                kernel=7,
                padding_l=3,
                mask=mask,
                name=f"fused-{kind}-mask{mask:d}",
                **given,
            )
            for mask in (False, True)
        ]
        norm_shapes = [(2, 9, 200), (1, 1, 200), (7, 3, 200)]
        planned += [
            layer_norm(norm_shapes, residual=residual, name=f"norm-{kind}-{residual:d}", **given)
            for residual in (False, True)
        ]
        planned += [
            crf_decode(
                [(2, 9, 8), (1, 1, 8), (4, 33, 8)], vocab=61, rank=5, name=f"crf-{kind}", **given
            ),
            top_k([(2, 5, 333), (1, 1, 64), (3, 2, 2048)], k=32, name=f"topk-{kind}", **given),
            top_k([(77,)], k=1, name=f"argmax-{kind}", **given),
        ]
    return planned


def drawn(rng: random.Random, number: int, *, data: bool) -> Planned:
    """Return a random case. With data it is small and allowed; without data its sizes are arbitrary."""
    planned = _drawn(rng, number, data)
    # The profile's largest shape has the largest of each dimension.
    largest = [
        math.prod(map(max, zip(*(x.shape for x in runs), strict=True)))
        for runs in zip(*planned.case.inputs, strict=True)
    ]
    fits = max(largest) <= MAX_ELEMENTS
    return dataclasses.replace(planned, allowed=planned.allowed and fits)


def _drawn(rng: random.Random, number: int, data: bool) -> Planned:
    given = {
        "dtype": rng.choice(DATA_TYPES),
        "seed": rng.randrange(2**31) if data else None,
        "name": f"drawn-{number}",
    }
    runs = range(rng.randint(1, 3))

    def size(usual: int, absurd: int) -> int:
        return rng.randint(1, usual) if data or rng.random() < 0.9 else rng.randint(1, absurd)

    maker = rng.choice((conv, fused_conv, layer_norm, crf_decode, top_k))
    if maker in (conv, fused_conv):
        heads, kernel = size(8, 999), size(33, 400)
        channels = heads * size(9, 999)
        if not data and rng.random() < 0.1:
            channels += 1
        padding_l = rng.randrange(kernel)
        if not data and rng.random() < 0.1:
            padding_l = rng.choice((-1, kernel, 10**6))
        attributes = {"heads": heads, "kernel": kernel, "padding_l": padding_l}
        lengths = [(size(5, 2**16), size(70, 2**16)) for _ in runs]
        if maker is conv:
            shapes = [(batch, channels, length) for batch, length in lengths]
            return conv(shapes, **attributes, **given)
        shapes = [(batch, length, channels) for batch, length in lengths]
        return fused_conv(shapes, **attributes, mask=rng.random() < 0.5, **given)
    if maker is layer_norm:
        width, rank = size(600, 2**20), rng.randint(1, 4)
        shapes = [(*(size(9, 2**12) for _ in range(rank - 1)), width) for _ in runs]
        eps = 1e-5 if data or rng.random() < 0.9 else -1.0
        return layer_norm(shapes, residual=rng.random() < 0.5, eps=eps, **given)
    if maker is crf_decode:
        beam, vocab, rank = size(64, 99), size(300, 2**20), size(33, 999)
        shapes = [(size(5, 2**20), size(40, 999), beam) for _ in runs]
        return crf_decode(shapes, vocab=vocab, rank=rank, **given)
    k, rank = size(64, 99), rng.randint(1, 4)
    shapes = [(*(size(5, 2**12) for _ in range(rank - 1)), k + size(3000, 2**20)) for _ in runs]
    if not data and rng.random() < 0.1:
        shapes[0] = (*shapes[0][:-1], max(1, k - 1))
    return top_k(shapes, k=k, **given)


def spoiled(rng: random.Random, planned: Planned) -> Planned:
    """Return the case with one error that does not concern sizes; the plugin must refuse it."""
    case = planned.case
    attributes = dict(case.attributes)
    index = rng.randrange(len(case.inputs[0]))
    form = OPERATORS[case.plugin].form(attributes)
    dtype = rng.choice((torch.int8, torch.int64, torch.bool))
    wrong = rng.choice(("type", "rank", "number", "attribute") if attributes else ("type", "rank"))

    def spoil(run: Sequence[Tensor]) -> list[Tensor]:
        tensor, given = run[index], list(run)
        if wrong == "type":
            given[index] = torch.empty(tensor.shape, dtype=dtype, device="meta")
        elif wrong == "rank":
            shape = () if form.inputs[index].rank is None else (*tensor.shape, 1)
            given[index] = torch.empty(shape, dtype=tensor.dtype, device="meta")
        elif wrong == "number":
            given += given[-1:] * 5
        return given

    if wrong == "attribute":
        name = rng.choice(list(attributes))
        attributes[name] = [attributes[name]] * 2
    inputs = [spoil(run) for run in case.inputs]
    case = dataclasses.replace(case, attributes=attributes, inputs=inputs, accepted=())
    return Planned(case, allowed=False)


def convolve(x: Tensor, weight: Tensor, padding_l: int) -> Tensor:
    """DynamicConv by its definition: x [B, C, T], weight [B, H, K, T] -> [B, C, T]."""
    kernel, length = weight.shape[2:]
    padded = F.pad(x, (padding_l, kernel - 1 - padding_l))
    windows = padded.unfold(2, kernel, 1)  # [B, C, T, K]
    taps = weight.repeat_interleave(x.shape[1] // weight.shape[1], dim=1).transpose(2, 3)
    return (windows * taps).sum(3)[..., :length]


def viterbi(
    emissions: Tensor, targets: Tensor, e1: Tensor, e2: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """fairseq's DynamicCRF._viterbi_decode of given candidates, sentence by sentence, in float64."""
    tokens = torch.zeros(targets.shape[:2], dtype=INT32)
    scores = torch.zeros(targets.shape[:2], dtype=torch.float64)
    for b in range(targets.shape[0]):
        rows = targets[b].long()
        score = emissions[b, 0].double()
        prefix, pointers = [score], []
        for t in range(1, rows.shape[0]):
            candidates = score[:, None] + e1[rows[t - 1]].double() @ e2[rows[t]].double().T
            best, pointer = candidates.max(0)  # the CPU returns the first of equal values
            if mask[b, t]:
                score = best + emissions[b, t].double()
            else:
                pointer = torch.arange(len(score))
            prefix.append(score)
            pointers.append(pointer)
        slot = int(score.argmax())
        last = rows.shape[0] - 1
        read = [float(score[slot])]
        tokens[b, last] = rows[last, slot]
        for t in range(last - 1, -1, -1):
            # through the slot of t + 1, as fairseq computes its scores
            read.append(float(prefix[t][slot]))
            slot = int(pointers[t][slot])
            tokens[b, t] = rows[t, slot]
        totals = torch.tensor(read[::-1], dtype=torch.float64)
        scores[b] = totals - F.pad(totals[:-1], (1, 0))
    return tokens, scores


def _conv_allowed(channels: int, heads: int, kernel: int, padding_l: int) -> bool:
    return channels % heads == 0 and kernel <= MAX_KERNEL and 0 <= padding_l < kernel


def _generator(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(seed)


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _normal(
    shape: Sequence[int], dtype: torch.dtype, rng: torch.Generator | None, specials: bool = False
) -> Tensor:
    if rng is None:
        return torch.empty(tuple(shape), dtype=dtype, device="meta")
    values = torch.randn(tuple(shape), generator=rng).to(dtype)
    return _with_specials(values, rng) if specials else values


def _with_specials(x: Tensor, rng: torch.Generator) -> Tensor:
    """Return a copy in which one value in a hundred is NaN or an infinity."""
    specials = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=x.dtype)
    chosen = specials[torch.randint(3, x.shape, generator=rng)]
    return x.where(torch.rand(x.shape, generator=rng) > 0.01, chosen)


def _quarters(shape: Sequence[int], dtype: torch.dtype, rng: torch.Generator | None) -> Tensor:
    if rng is None:
        return torch.empty(tuple(shape), dtype=dtype, device="meta")
    return (torch.randint(-8, 9, tuple(shape), generator=rng) / 4).to(dtype)


def _integers(shape: Sequence[int], limit: int, rng: torch.Generator | None) -> Tensor:
    if rng is None:
        return torch.empty(tuple(shape), dtype=INT32, device="meta")
    return torch.randint(limit, tuple(shape), generator=rng, dtype=INT32)


def _mask(batch: int, length: int, rng: torch.Generator | None) -> Tensor:
    if rng is None:
        return torch.empty(batch, length, dtype=INT32, device="meta")
    lengths = torch.randint(1, length + 1, (batch, 1), generator=rng)
    return (torch.arange(length) < lengths).to(INT32)
