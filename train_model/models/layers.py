"""Building blocks of the networks, with the parameter names and numerics of fairseq 0.12.2.

Everything is batch first, [B, T, C]; a padding mask is bool [B, T], True at padding.
"""

import math
import re
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from train_model.data.dictionary import PAD
from train_model.models.chains import gate, zero_padding
from train_model.models.config import NetworkConfig, check_heads
from train_model.ops import dynamic_conv
from train_model.ops.dynamic_conv import banded_conv

BANDED_LENGTH = 256
"""The longest sentence on which training convolves by a matrix product."""


def linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """A linear layer with fairseq's initial values."""
    layer = nn.Linear(in_features, out_features, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation that fairseq's ``--activation-fn`` names.

    Raises:
        ValueError: there is no such activation.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation_fn is one of {', '.join(_ACTIVATIONS)}, not {name!r}")
    return _ACTIVATIONS[name]


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu_accurate": partial(F.gelu, approximate="tanh"),
    "tanh": torch.tanh,
    "swish": F.silu,
    "linear": torch.nn.Identity(),
}


def embedding(rows: int, width: int, padding_idx: int | None = PAD) -> nn.Embedding:
    """An embedding with fairseq's initial values; the row of the padding symbol is zero."""
    layer = nn.Embedding(rows, width, padding_idx=padding_idx)
    nn.init.normal_(layer.weight, std=width**-0.5)
    if padding_idx is not None:
        nn.init.zeros_(layer.weight[padding_idx])
    return layer


def token_embeddings(config: NetworkConfig) -> tuple[nn.Embedding, nn.Embedding]:
    """Embeddings of the source's and of the target's tokens: the same module if the network shares them."""
    source = embedding(config.src_vocab, config.width("encoder"))
    if config.share_all_embeddings:
        return source, source
    return source, embedding(config.tgt_vocab, config.width("decoder"))


def token_positions(tokens: Tensor) -> Tensor:
    """Return positions [B, T], counted from PAD + 1 over the tokens except padding, which has PAD."""
    real = tokens.ne(PAD).long()
    return real.cumsum(1) * real + PAD


class LearnedPositions(nn.Embedding):
    """One learned vector per position (fairseq ``LearnedPositionalEmbedding``)."""

    def __init__(self, max_positions: int, width: int) -> None:
        super().__init__(max_positions + PAD + 1, width, padding_idx=PAD)
        nn.init.normal_(self.weight, std=width**-0.5)
        nn.init.zeros_(self.weight[PAD])

    @property
    def vectors(self) -> Tensor:
        """All vectors [max_positions + 2, C]; no position uses rows 0 and PAD."""
        return self.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors [B, T, C] of the positions of ``tokens`` [B, T]."""
        return super().forward(token_positions(tokens))


class SinusoidalPositions(nn.Module):
    """One fixed vector per position (fairseq ``SinusoidalPositionalEmbedding``).

    The only entry in the state dict, ``_float_tensor``, comes from fairseq and holds no information.
    """

    def __init__(self, max_positions: int, width: int) -> None:
        super().__init__()
        self.register_buffer("_float_tensor", torch.zeros(1))
        self.register_buffer(
            "vectors", self._table(max_positions + PAD + 1, width), persistent=False
        )

    @staticmethod
    def _table(rows: int, width: int) -> Tensor:
        if torch.get_default_device().type == "meta":  # only the network's shapes are needed
            return torch.empty(rows, width)
        half = width // 2
        frequencies = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
        angles = torch.arange(rows)[:, None] * frequencies[None]
        table = torch.cat([angles.sin(), angles.cos()], dim=1)
        table = F.pad(table, (0, width - table.shape[1]))
        table[PAD] = 0
        return table

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors [B, T, C] of the positions of ``tokens`` [B, T]."""
        return self.vectors[token_positions(tokens)]


def positions(config: NetworkConfig, side: str) -> nn.Module | None:
    """The positional embedding of the ``encoder`` or the ``decoder``, or None if the network has none."""
    if config.no_token_positional_embeddings:
        return None
    table = LearnedPositions if getattr(config, f"{side}_learned_pos") else SinusoidalPositions
    most = config.max_source_positions if side == "encoder" else config.max_target_positions
    return table(most, config.width(side))


def masked_softmax(scores: Tensor, padding_mask: Tensor) -> Tensor:
    """Softmax over the last axis without the masked columns.

    The mask [.., T] must broadcast against the scores. Masked scores become the smallest finite number, so
    a row that is all padding gives equal weights instead of NaN.
    """
    return scores.masked_fill(padding_mask, torch.finfo(scores.dtype).min).softmax(-1)


# cuDNN's kernel takes as long as the plain products where sentences are short
_TRAINING_KERNELS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention (fairseq ``MultiheadAttention``)."""

    def __init__(
        self, width: int, heads: int, dropout: float = 0.0, source_width: int | None = None
    ) -> None:
        """Build the projections; keys and values have ``source_width`` channels, or else ``width``."""
        super().__init__()
        check_heads(width, heads)
        self.heads, self.dropout, self.scale = heads, dropout, (width // heads) ** -0.5
        source_width = source_width or width
        self.k_proj, self.v_proj = linear(source_width, width), linear(source_width, width)
        self.q_proj, self.out_proj = linear(width, width), linear(width, width)
        # fairseq initialises the three as parts of one matrix
        for projection in (self.k_proj, self.v_proj, self.q_proj):
            nn.init.xavier_uniform_(projection.weight, gain=2**-0.5)

    def split_heads(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, heads, T, C / heads]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project_source(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, heads, S, C / heads] of ``source`` [B, S, C]."""
        return self.split_heads(self.k_proj(source)), self.split_heads(self.v_proj(source))

    def attend(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Attend from ``x`` [B, T, C]; True in ``mask``, which broadcasts to [B, heads, T, S], hides."""
        query = self.split_heads(self.q_proj(x) * self.scale)
        if self.training:  # one kernel on a GPU, without copies of the heads
            with sdpa_kernel(_TRAINING_KERNELS):
                attended = F.scaled_dot_product_attention(
                    query, key, value, ~mask, self.dropout, scale=1.0
                )
        else:
            attended = masked_softmax(query @ key.transpose(2, 3), mask) @ value
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, source: Tensor, padding_mask: Tensor) -> Tensor:
        """Attend from ``x`` [B, T, C] to ``source`` [B, S, C] where its mask [B, S] is False."""
        return self.attend(x, *self.project_source(source), padding_mask[:, None, None])

    def attend_to_itself(self, x: Tensor, padding_mask: Tensor | None, causal: bool) -> Tensor:
        """Attend from ``x`` [B, T, C] to itself; ``causal`` hides the future, the mask [B, T] padding."""
        return self.attend(x, *self.project_source(x), _hidden(x, padding_mask, causal))

    def state_shapes(self, rows: int, length: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the keys and values of ``length`` positions that :meth:`step` takes, by name."""
        shape = (rows, self.heads, length, self.q_proj.out_features // self.heads)
        return {"key": shape, "value": shape}

    def step(self, x: Tensor, state: list[Tensor], position: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Attend from ``x`` [N, 1, C] to itself and earlier positions; writes keys and values in place."""
        slots = torch.arange(state[0].shape[2], device=x.device)
        for old, new in zip(state, self.project_source(x), strict=True):
            old.scatter_(2, position.expand_as(new), new)
        return self.attend(x, *state, slots > position), state


def numbered_state_shapes(
    modules: Iterable[nn.Module], rows: int, length: int
) -> dict[str, tuple[int, ...]]:
    """The modules' ``state_shapes``, under names that begin with each module's number."""
    return {
        f"{index}.{name}": shape
        for index, module in enumerate(modules)
        for name, shape in module.state_shapes(rows, length).items()
    }


def _hidden(x: Tensor, padding_mask: Tensor | None, causal: bool) -> Tensor:
    """The positions that self-attention does not see, broadcasting to [B, heads, T, T]."""
    length = x.shape[1]
    if causal:
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        return future if padding_mask is None else future | padding_mask[:, None, None]
    if padding_mask is None:
        return torch.zeros(1, dtype=torch.bool, device=x.device)
    return padding_mask[:, None, None]


class _Convolution(nn.Module):
    """The common part of both convolutions: the optional projections around them, and the padding."""

    def __init__(
        self,
        width: int,
        kernel_size: int,
        padding_l: int,
        heads: int,
        *,
        weight_softmax: bool,
        weight_dropout: float,
        with_linear: bool,
        glu: bool,
    ) -> None:
        super().__init__()
        self.width, self.kernel_size = width, kernel_size
        self.padding_l, self.heads = padding_l, heads
        self.weight_softmax, self.weight_dropout = weight_softmax, weight_dropout
        self.linear1 = linear(width, width * (1 + glu)) if with_linear else None
        self.linear2 = linear(width, width) if with_linear else None
        self.glu = glu

    def project_in(self, x: Tensor) -> Tensor:
        """Apply the inner projection and its gate, if there are any."""
        if self.linear1 is None:
            return x
        x = self.linear1(x)
        return gate(x) if self.glu else x

    def taps(self, logits: Tensor, dim: int) -> Tensor:
        """Normalise the taps; drop some of them in training."""
        weight = logits.softmax(dim) if self.weight_softmax else logits
        return F.dropout(weight, self.weight_dropout, self.training)

    def tap_logits(self, x: Tensor) -> Tensor:
        """Taps before normalisation for the inputs [B, T, C]: [B or 1, T or 1, heads, K]."""
        raise NotImplementedError

    def convolve(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """The convolution itself, [B, T, C] -> [B, T, C]."""
        raise NotImplementedError

    def state_shapes(self, rows: int, length: int) -> dict[str, tuple[int, ...]]:
        """Shape of the last inputs that :meth:`step` takes, by name; it does not grow with ``length``."""
        size = self.kernel_size - 1
        return {"window": (rows, size, self.width)} if size else {}

    def step(self, x: Tensor, state: list[Tensor], position: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Convolve ``x`` [N, 1, C] with the inputs before it, for a causal convolution."""
        x = self.project_in(x)
        window = torch.cat([*state, x], 1)
        taps = self.taps(self.tap_logits(x), -1).transpose(1, 2)  # [N or 1, heads, 1, K]
        y = (taps @ window.unflatten(-1, (self.heads, -1)).transpose(1, 2)).transpose(1, 2)
        return self.project_out(y.flatten(2)), [window[:, 1:]] if state else []

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """[B, T, C] -> [B, T, C]; positions where the mask is True count as zero in the convolution."""
        return self.project_out(self.convolve(self.project_in(x), padding_mask))

    def project_out(self, x: Tensor) -> Tensor:
        """Apply the projection after the convolution, if there is one."""
        return x if self.linear2 is None else self.linear2(x)


def _zero(x: Tensor, padding_mask: Tensor | None) -> Tensor:
    return x if padding_mask is None else zero_padding(x, padding_mask)


class DynamicConv(_Convolution):
    """A depthwise convolution with taps that are computed from its input (fairseq ``DynamicConv``)."""

    def __init__(self, width: int, kernel_size: int, padding_l: int, heads: int, **options) -> None:
        super().__init__(width, kernel_size, padding_l, heads, **options)
        self.weight_linear = nn.Linear(width, heads * kernel_size, bias=False)

    def tap_logits(self, x: Tensor) -> Tensor:
        """See :meth:`_Convolution.tap_logits`."""
        return self.weight_linear(x).unflatten(-1, (self.heads, self.kernel_size))

    def convolve(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Compute taps from the unmasked input and apply them to the masked input."""
        weight = self.taps(self.tap_logits(x), -1)
        x = _zero(x, padding_mask)
        if self.training and x.shape[1] <= BANDED_LENGTH:
            return banded_conv(x, weight, self.padding_l)
        weight = weight.permute(0, 2, 3, 1)
        return dynamic_conv(x.transpose(1, 2), weight, self.padding_l).transpose(1, 2)


class LightweightConv(_Convolution):
    """A depthwise convolution with the same taps at every position (fairseq ``LightweightConv``)."""

    def __init__(self, width: int, kernel_size: int, padding_l: int, heads: int, **options) -> None:
        super().__init__(width, kernel_size, padding_l, heads, **options)
        self.weight = nn.Parameter(torch.empty(heads, 1, kernel_size))
        nn.init.xavier_uniform_(self.weight)

    def tap_logits(self, x: Tensor) -> Tensor:
        """See :meth:`_Convolution.tap_logits`."""
        return self.weight.transpose(0, 1)[None]

    def convolve(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Apply the shared taps to the masked input."""
        width = x.shape[-1]
        weight = self.taps(self.weight, -1).repeat_interleave(width // self.heads, 0)
        x = _zero(x, padding_mask).transpose(1, 2)
        x = F.pad(x, (self.padding_l, self.kernel_size - 1 - self.padding_l))
        return F.conv1d(x, weight, groups=width).transpose(1, 2)


_TAPS = re.compile(r"\.(conv|branches\.\d+)\.weight$")


def add_tap_axis(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the middle axis of lightweight convolutions' taps to a state dict that lacks it.

    The CUDA modules of fairseq and of mit-han-lab's Lite Transformer store the taps as [heads, K].
    """
    return {
        name: value[:, None] if _TAPS.search(name) and value.dim() == 2 else value
        for name, value in weights.items()
    }


def convolution(kind: str, *args, **options) -> _Convolution:
    """The convolution that fairseq's ``--encoder-conv-type`` names."""
    return {"dynamic": DynamicConv, "lightweight": LightweightConv}[kind](*args, **options)
