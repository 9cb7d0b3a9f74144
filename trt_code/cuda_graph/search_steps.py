"""The steps of a search in the fused operators of ``trt_code/torch_ops``, with the interface of
:class:`train_model.models.incremental.DecoderStep`.

Shapes: B sentences, N = B * beam hypotheses, S source tokens, L positions of the state, C channels. A step
writes keys, values and convolution inputs of its position to the state and never moves them: a table says
where a hypothesis has its past (``trt_code/kernels/history.cuh``).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from train_model.models.autoregressive import AutoregressiveTranslator, DecoderLayer
from train_model.models.beam_search import Search
from train_model.models.layers import DynamicConv, MultiheadAttention
from train_model.models.multibranch import MultiBranch
from train_model.models.quantized import QuantizedLinear
from trt_code.cuda_graph.products import LayerNorm, Linear, Weights

lite = torch.ops.lite

VECTOR_BYTES = 16


def why_not(model: AutoregressiveTranslator, dtype: torch.dtype) -> str | None:
    """Return why the fused steps cannot run ``model`` in ``dtype``, or None if they can."""
    config, decoder = model.config, model.decoder
    if config.activation_fn != "relu":
        return f"the fused steps have ReLU, the model {config.activation_fn}"
    if any(isinstance(module, QuantizedLinear) for module in decoder.modules()):
        return "the fused steps are for networks that are not quantised"
    positions = 1 + max(config.max_source_positions, config.max_target_positions)
    for layer in decoder.layers:
        for block in (*_branches(layer), layer.encoder_attn):
            reason = _why_not_block(block, positions, dtype)
            if reason is not None:
                return f"the fused steps cannot run a {type(block).__name__}: {reason}"
    return None


def _why_not_block(block: nn.Module, positions: int, dtype: torch.dtype) -> str | None:
    if isinstance(block, MultiheadAttention):
        channels = block.q_proj.out_features
        return lite.why_not_attend_step(channels, block.heads, positions, dtype)
    if not isinstance(block, DynamicConv):
        return "branches must be attention or dynamic convolutions"
    if block.linear1 is None:
        return "convolutions need inner linears"
    return lite.why_not_convolve_step(block.width, block.heads, block.kernel_size, dtype)


def search_fits(beam: int, vocab: int, dtype: torch.dtype) -> bool:
    """Return whether :class:`FusedSearch` supports logits [B, ``beam``, ``vocab``] of ``dtype``."""
    return lite.why_not_choose_step(beam, vocab, dtype) is None


class FusedSteps:
    """The encoder and the steps of one autoregressive model on one GPU in one precision.

    Args:
        model: the network, already on the GPU and in ``dtype``; see :func:`why_not`.
        dtype: the type of weights, activations and state.
        tf32: round FP32 products to TF32.
    """

    def __init__(
        self, model: AutoregressiveTranslator, dtype: torch.dtype, tf32: bool = False
    ) -> None:
        decoder = model.decoder
        self._encoder, self._decoder = model.encoder, decoder
        weights = Weights(dtype, tf32)
        self._dtype, self._device = dtype, decoder.embed_tokens.weight.device
        self._layers = [_StepLayer(weights, layer) for layer in decoder.layers]
        attentions = [layer.encoder_attn for layer in decoder.layers]
        self._source = _stacked(
            [weights.plain_linear(p) for x in attentions for p in (x.k_proj, x.v_proj)]
        )
        norms = decoder.layernorm_embedding, decoder.layer_norm
        self._first_norm, self._last_norm = (x and LayerNorm.of(x) for x in norms)
        self._embedding = decoder.embed_tokens.weight.detach()
        at = decoder.embed_positions
        self._positions = None if at is None else at.vectors.detach().contiguous()
        self._project = weights.plain_linear(decoder.output_projection)

    def encode(self, src_tokens: Tensor) -> list[Tensor]:
        """Encode [B, S] int64 tokens: the padding mask [B, S] bool, and the keys and values of every layer
        [B, S, C], side by side in memory."""
        encoded = self._encoder(src_tokens)
        keys_values = self._source(encoded.x.contiguous())
        width = keys_values.shape[-1] // (2 * len(self._layers))
        return [encoded.padding_mask, *keys_values.split(width, -1)]

    def new_state(self, rows: int, room: int) -> list[Tensor]:
        """The state of ``rows`` hypotheses with room for ``room`` tokens: the table of ancestors
        [2, N, L] int32, then the tensors of every layer, [N, 1, L, width]."""
        widths = [width for layer in self._layers for width in layer.state_widths]
        return [
            torch.zeros(2, rows, room, dtype=torch.int32, device=self._device),
            *(
                torch.zeros(rows, 1, room, width, dtype=self._dtype, device=self._device)
                for width in widths
            ),
        ]

    def __call__(
        self,
        tokens: Tensor,
        parents: Tensor,
        position: Tensor,
        source: Sequence[Tensor],
        state: Sequence[Tensor],
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Take one step; see ``DecoderStep``. The state is written in place.

        Returns:
            logits [B, beam, V], for :class:`FusedSearch`, and ``state``.
        """
        # with one hypothesis per sentence, each has its past in its own row
        ancestors = None if tokens.shape[1] == 1 else state[0]
        mask, *keys_values = source
        scale = self._decoder.embed_scale
        x = lite.embed_step(
            tokens, parents, position, self._embedding, self._positions, scale, ancestors
        )
        if self._first_norm:
            x = _apply(self._first_norm, x)
        own = iter(state[1:])
        for index, layer in enumerate(self._layers):
            past = [next(own)[:, 0] for _ in layer.state_widths]
            x = layer(x, keys_values[2 * index : 2 * index + 2], mask, past, ancestors, position)
        if self._last_norm:
            x = _apply(self._last_norm, x)
        return self._project(x), state


class FusedSearch(Search):
    """A search that takes the logits of :class:`FusedSteps` and advances in one operator."""

    def __init__(self, *arguments: Any) -> None:
        """See :class:`Search`."""
        super().__init__(*arguments)
        self._counters = torch.zeros(2, dtype=torch.int32, device=self.tokens.device)

    def advance(self, scores: Tensor) -> None:
        """Choose the continuation of every hypothesis, given logits [B, beam, V]."""
        lite.choose_step(
            *(scores, self._forbidden, self._kinds),
            *(self.tokens, self.parents, self._totals, self.step, self.done),
            *(self._past_tokens, self._past_parents, self._past_totals),
            *(self._count, self._end_at, self._end_total, self._counters),
        )


class _StepLayer:
    """One decoder layer: mixing with the past, attention to the source, feed-forward."""

    def __init__(self, weights: Weights, layer: DecoderLayer) -> None:
        branches = _branches(layer)
        firsts = [_first(branch, weights) for branch in branches]
        lasts = [_last(branch, weights) for branch in branches]
        # every branch reads and writes its slice of the channels, so its matrix is a diagonal block
        self._first, self._last = (
            _joined(parts, torch.block_diag(*(x.weight for x in parts)))
            for parts in (firsts, lasts)
        )
        self._widths = [x.weight.shape[0] for x in firsts]
        self._out_widths = [x.weight.shape[1] for x in lasts]
        self._branches = [
            _PastAttention(branch)
            if isinstance(branch, MultiheadAttention)
            else _PastConvolution(branch)
            for branch in branches
        ]
        self.state_widths = [width for branch in self._branches for width in branch.state_widths]
        attention = layer.encoder_attn
        self._heads = attention.heads
        self._query = _scaled_query(attention, weights)
        self._out, self._fc1, self._fc2 = map(
            weights.plain_linear, (attention.out_proj, layer.fc1, layer.fc2)
        )
        self._before = layer.normalize_before
        self._mixing_norm, self._attention_norm, self._ffn_norm = map(
            LayerNorm.of, (layer.mixing_norm, layer.encoder_attn_layer_norm, layer.ffn_norm)
        )

    def __call__(
        self,
        x: Tensor,
        keys_values: Sequence[Tensor],
        mask: Tensor,
        past: Sequence[Tensor],
        ancestors: Tensor | None,
        position: Tensor,
    ) -> Tensor:
        """[B, beam, C] -> [B, beam, C]; writes this position to ``past``, tensors [N, L, width]."""

        def mix(x: Tensor) -> Tensor:
            projected = self._first(x.flatten(0, 1))
            mixed = projected.new_empty(len(projected), sum(self._out_widths))
            own = iter(past)
            for branch, read, write in zip(
                self._branches,
                projected.split(self._widths, -1),
                mixed.split(self._out_widths, -1),
                strict=True,
            ):
                branch(read, [next(own) for _ in branch.state_widths], ancestors, position, write)
            return mixed.view(x.shape)

        def attend(x: Tensor) -> Tensor:
            return lite.attend_source(self._query(x), *keys_values, mask, self._heads)

        x = self._residual(self._mixing_norm, x, mix, self._last)
        x = self._residual(self._attention_norm, x, attend, self._out)
        return self._residual(self._ffn_norm, x, lambda x: self._fc1(x, relu=True), self._fc2)

    def _residual(self, norm: LayerNorm, x: Tensor, inner, last: Linear) -> Tensor:
        y = last(inner(_apply(norm, x) if self._before else x), residual=x)
        return y if self._before else _apply(norm, y)


class _PastAttention:
    """Attention to the earlier positions of the hypothesis."""

    def __init__(self, attention: MultiheadAttention) -> None:
        self._heads = attention.heads
        self.state_widths = [attention.q_proj.out_features] * 2

    def __call__(
        self,
        read: Tensor,
        past: Sequence[Tensor],
        ancestors: Tensor | None,
        position: Tensor,
        write: Tensor,
    ) -> None:
        lite.attend_past(read, *past, ancestors, position, self._heads, write)


class _PastConvolution:
    """The dynamic convolution over the newest positions of the hypothesis."""

    def __init__(self, conv: DynamicConv) -> None:
        self._heads, self._glu, self._softmax = conv.heads, conv.glu, conv.weight_softmax
        taps = conv.weight_linear.weight.detach()  # [heads * K, C]
        vector = VECTOR_BYTES // taps.element_size()
        # the order in which neighbouring threads read neighbouring vectors: [C / vector, heads * K, vector]
        self._taps = taps.unflatten(1, (-1, vector)).transpose(0, 1).contiguous()
        self.state_widths = [conv.width]

    def __call__(
        self,
        read: Tensor,
        past: Sequence[Tensor],
        ancestors: Tensor | None,
        position: Tensor,
        write: Tensor,
    ) -> None:
        (inputs,) = past
        options = self._heads, self._glu, self._softmax
        lite.convolve_step(read, self._taps, inputs, ancestors, position, *options, write)


def _branches(layer: DecoderLayer) -> Sequence[nn.Module]:
    """The branches of a layer's mixing block; a layer without branches has its attention, if any."""
    mixing = getattr(layer, "self_attn", None)
    return mixing.branches if isinstance(mixing, MultiBranch) else [mixing]


def _first(branch: MultiheadAttention | DynamicConv, weights: Weights) -> Linear:
    """The first linear of a branch: an attention's queries, already scaled, keys and values in one."""
    if isinstance(branch, DynamicConv):
        return weights.plain_linear(branch.linear1)
    key, value = map(weights.plain_linear, (branch.k_proj, branch.v_proj))
    return _stacked([_scaled_query(branch, weights), key, value])


def _last(branch: MultiheadAttention | DynamicConv, weights: Weights) -> Linear:
    is_attention = isinstance(branch, MultiheadAttention)
    return weights.plain_linear(branch.out_proj if is_attention else branch.linear2)


def _scaled_query(attention: MultiheadAttention, weights: Weights) -> Linear:
    query = weights.plain_linear(attention.q_proj)
    return dataclasses.replace(
        query, weight=query.weight * attention.scale, bias=query.bias * attention.scale
    )


def _stacked(parts: Sequence[Linear]) -> Linear:
    """One linear layer with the outputs of all, which read the same input."""
    return _joined(parts, torch.cat([x.weight for x in parts]))


def _joined(parts: Sequence[Linear], weight: Tensor) -> Linear:
    return dataclasses.replace(parts[0], weight=weight, bias=torch.cat([x.bias for x in parts]))


def _apply(norm: LayerNorm, x: Tensor) -> Tensor:
    return norm(x, None, None)[0]
