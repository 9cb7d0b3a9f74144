"""The folded network written out in the fused operators of ``trt_code/torch_ops``.

Shapes: B sentences, S source tokens, T canvas positions, C channels. Everything here can be captured
in a CUDA graph: no value of a tensor decides what runs.
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from train_model.data.dictionary import PAD
from train_model.models.conv_crf_transformer import (
    ConvCrfTransformer,
    DecoderLayer,
    EncoderLayer,
)
from train_model.models.dynamic_crf import KERNEL_BEAM
from train_model.models.fold import fold
from train_model.models.layers import DynamicConv, masked_softmax
from train_model.models.one_pass import LENGTH_OFFSET
from trt_code.cuda_graph.packing import LayerWeights
from trt_code.cuda_graph.products import AnyLinear, LayerNorm, Weights, low_precision
from trt_code.cuda_graph.stack import ConvStack, StackLayer
from trt_code.cuda_graph.streams import own_stream

lite = torch.ops.lite

# The least rows, sentences x positions, for which FP8 is faster than 16 bits.
LEAST_FP8_ROWS = 2048


class Source(NamedTuple):
    """The encoder's results that the decoder reads."""

    keys: Tensor  # [B, S, C] token and position embeddings: the keys of the attention copy
    embedded: Tensor  # [B, S, C] token embeddings: what is copied
    mask: Tensor  # [B, S] int32, 0 at padding
    keys_values: Tensor  # [B, S, 2 L C] keys and values of the L decoder layers, side by side
    lengths: Tensor  # [B] int64, predicted target lengths, at least 2
    encoded: Tensor  # [B, S, C] input of keys_values, which the side stream may still compute


class Parts(NamedTuple):
    """The parts of a network that multiply, with their weights in one precision."""

    encoder_layers: "list[_EncoderLayer]"
    decoder_layers: "list[_DecoderLayer]"
    source_projection: AnyLinear
    output_projection: AnyLinear


class Fork:
    """Runs work on a side stream; a captured graph keeps this concurrency.

    Work inside ``with fork:`` may use only what existed at ``begin``; use its results only after ``join``.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = own_stream(self, device) if device.type == "cuda" else None

    def begin(self) -> None:
        """Let the side stream start after the work queued so far."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    def __enter__(self) -> None:
        if self._stream is not None:
            self._before = torch.cuda.current_stream(self._stream.device)
            torch.cuda.set_stream(self._stream)

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            torch.cuda.set_stream(self._before)

    def join(self) -> None:
        """Let the current stream wait for the side stream."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)


def why_not(model: nn.Module) -> str | None:
    """Return why the fused network cannot run ``model``, or None if it can."""
    config = model.config
    if not isinstance(model, ConvCrfTransformer):
        return f"the fused network is a conv_crf_transformer, the model a {config.architecture}"
    if config.encoder_normalize_before or config.decoder_normalize_before:
        return "the fused network is post-norm, the model is pre-norm"
    if "lightweight" in (config.encoder_conv_type, config.decoder_conv_type):
        return "the fused network has dynamic convolutions, the model lightweight ones"
    if not (
        config.encoder_glu and config.decoder_glu and config.conv_linear and config.weight_softmax
    ):
        return "the fused network needs gates, inner linears and softmax in its convolutions"
    if not config.src_embedding_copy or config.no_token_positional_embeddings:
        return "the fused network needs positions and the attention copy"
    if model.crf_layer.beam > KERNEL_BEAM:
        return f"the fused network's CRF takes a beam of {KERNEL_BEAM}, the model has {model.crf_layer.beam}"
    return None


class FusedNetwork:
    """Encoder, length prediction, decoder and CRF of one model on one GPU in one precision.

    Args:
        model: the network; with ``fp8``, one that is quantised to INT8, whose ranges FP8 uses too.
        dtype: the type of activations, and of weights that are not FP8.
        device: the GPU.
        tf32: round FP32 products to TF32.
        fp8: compute the quantised layers in FP8 where there are enough rows for a gain.
    """

    def __init__(
        self,
        model: ConvCrfTransformer,
        dtype: torch.dtype,
        device: torch.device,
        tf32: bool = False,
        fp8: bool = False,
    ) -> None:
        folded = fold(model).to(device)
        self.config, self.dtype = model.config, dtype
        self._fork = Fork(device)
        encoder, decoder = folded.encoder, folded.decoder
        self.src_embed = encoder.embed_tokens.weight.detach().to(dtype)
        self.src_positions = encoder.embed_positions.vectors.detach().to(dtype)
        self.tgt_embed = decoder.embed_tokens.weight.detach().to(dtype)
        self.tgt_positions = decoder.embed_positions.vectors.detach().to(dtype)
        self.copy_queries = decoder.copy_queries.detach().to(dtype)
        self.parts = self._parts(folded, Weights(dtype, tf32))
        self.fp8_parts = self._parts(folded, Weights(dtype, tf32, fp8=True)) if fp8 else None
        self.encoder_stack = self._stack(self.parts.encoder_layers)
        self.decoder_stack = self._stack(self.parts.decoder_layers)
        self.length_projection = decoder.embed_length.weight.detach().to(dtype)
        self.E1 = folded.crf_layer.E1.weight.detach().to(dtype)
        self.E2 = folded.crf_layer.E2.weight.detach().to(dtype)
        self.beam = folded.crf_layer.beam

    def _parts(self, folded: ConvCrfTransformer, weights: Weights) -> Parts:
        # padding then reads as zeros, and does not change the result
        mask_conv = self.config.padding_policy == "masked"
        encoder, decoder = folded.encoder, folded.decoder
        return Parts(
            [_EncoderLayer(weights, layer, mask_conv) for layer in encoder.layers],
            [_DecoderLayer(weights, i, layer) for i, layer in enumerate(decoder.layers)],
            weights.linear(decoder.source_projection),
            weights.linear(decoder.output_projection),
        )

    def _parts_for(self, x: Tensor) -> Parts:
        """The weights that are fastest for [B, T, C]."""
        rows = x.shape[0] * x.shape[1]
        return self.fp8_parts if self.fp8_parts and rows >= LEAST_FP8_ROWS else self.parts

    def _stack(self, layers: "list[_EncoderLayer] | list[_DecoderLayer]") -> ConvStack | None:
        """Return the layers as one kernel, or None if their sizes do not fit it."""
        heads = layers[0].conv.shape[0]
        sizes = {(x.conv.shape[0], *x.fc1.weight.shape, x.conv_norm.eps) for x in layers}
        alike = len(sizes) == 1 and all(x.heads == heads for x in layers)
        is_16_bit = self.dtype in (torch.float16, torch.bfloat16)
        fits = is_16_bit and alike and layers[0].fc1.weight.shape[1] == 64 * heads
        if not fits or not hasattr(lite, "conv_stack"):
            return None
        stack = [x.for_stack() for x in layers]
        return ConvStack(stack, heads, layers[0].conv_norm.eps, layers[0].mask_conv)

    def encode(self, src_tokens: Tensor, limits: Tensor) -> Source:
        """Encode [B, S] int64 tokens; predict target lengths of at most ``limits`` [B] int64."""
        source = self._encode(src_tokens, limits)
        self._fork.join()
        return source

    def decode(self, source: Source, width: int) -> tuple[Tensor, Tensor]:
        """Fill a canvas of ``width`` positions, at least the longest length.

        Returns:
            tokens [B, width] int32 and scores [B, width] float32; values after a sentence's length
            are arbitrary.
        """
        return self._fill(*self._open(source, width), source)

    def translate(
        self, src_tokens: Tensor, limits: Tensor, width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode and decode on a canvas that does not depend on the lengths.

        Returns:
            tokens and scores as ``decode`` gives them, and the lengths [B] int64.
        """
        source = self._encode(src_tokens, limits)
        x, mask = self._open(source, width)
        self._fork.join()
        return *self._fill(x, mask, source), source.lengths

    def _encode(self, src_tokens: Tensor, limits: Tensor) -> Source:
        """As ``encode``; the keys and values of the decoder's layers are ready when the fork joins."""
        keys, embedded, mask = lite.embed_source(src_tokens, self.src_embed, self.src_positions)
        parts = self._parts_for(keys)
        x, read = self._run_encoder(keys, mask, parts)
        self._fork.begin()
        relative = self.config.pred_length_offset
        offset = -LENGTH_OFFSET if relative else 0
        # launched first: the product fills the GPU, and the canvas needs only the lengths
        lengths = lite.predict_length(x, mask, self.length_projection, limits, offset, relative)
        with self._fork:
            keys_values = parts.source_projection(read)
        return Source(keys, embedded, mask, keys_values, lengths, read)

    def _run_encoder(self, x: Tensor, mask: Tensor, parts: Parts) -> tuple[Tensor, Tensor]:
        """The encoder's result, twice: as it is, and as the source projection reads it."""
        stack = self.encoder_stack
        if parts is self.parts and stack is not None and stack.fits(x):
            x = stack(x, mask)
            return x, x
        layers = parts.encoder_layers
        readers = [*(layer.linear1 for layer in layers[1:]), parts.source_projection]
        read = low_precision(x, layers[0].linear1.fp8_factor)
        for layer, reader in zip(layers, readers, strict=True):
            x, read = layer(x, read, mask, reader.fp8_factor)
        return x, read

    def _run_decoder(self, x: Tensor, source: Source, parts: Parts) -> Tensor:
        """The decoder's result, as the output projection reads it."""
        at = self.tgt_positions[PAD + 1 : PAD + 1 + x.shape[1]]
        stack, keys_values = self.decoder_stack, source.keys_values
        if parts is self.parts and stack is not None and stack.fits(x, keys_values):
            return stack(x, None, keys_values, source.mask, at)
        layers = parts.decoder_layers
        read = low_precision(x, layers[0].linear1.fp8_factor)
        for layer, following in itertools.pairwise(layers):
            x, read = layer(x, read, source, at, following.linear1.fp8_factor)
        return layers[-1](x, read, source, None, parts.output_projection.fp8_factor)[1]

    def _open(self, source: Source, width: int) -> tuple[Tensor, Tensor]:
        """The decoder's input [B, width, C] and mask [B, width]: copies of the source, and the ends."""
        return lite.copy_source(
            source.lengths,
            width,
            self.copy_queries,
            source.keys,
            source.embedded,
            source.mask,
            self.tgt_embed,
            self.tgt_positions,
        )

    def _fill(self, x: Tensor, mask: Tensor, source: Source) -> tuple[Tensor, Tensor]:
        """Tokens and scores of the canvas."""
        parts = self._parts_for(x)
        logits = parts.output_projection(self._run_decoder(x, source, parts))
        values, indices = lite.top_k(logits, self.beam)
        return lite.crf_decode(values, indices, self.E1, self.E2, mask)


class _Convolution:
    """The dynamic convolution: gate, taps from the gated input, softmax, weighted sum."""

    def __init__(self, weights: Weights, conv: DynamicConv) -> None:
        self.linear1 = weights.linear(conv.linear1)
        self.weight_linear = weights.plain_linear(conv.weight_linear)
        self.shape = conv.heads, conv.kernel_size, conv.padding_l
        width = self.weight_linear.weight.shape[1]
        self.fused = lite.self_conv_fits(width, *self.shape, weights.dtype)

    def __call__(self, x: Tensor, mask: Tensor | None, fp8_factor: float | None) -> Tensor:
        """Convolve what ``linear1`` reads; ``fp8_factor`` is that of the result's reader."""
        if self.fused:
            weight, tf32 = self.weight_linear.weight, self.weight_linear.tf32
            gate = not lite.gates_in_product(x)
            x = self.linear1(x) if gate else self.linear1.gated(x)
            return lite.self_conv(x, weight, mask, *self.shape, gate, tf32, fp8_factor)
        x = self.linear1.gated(x)
        y = lite.dynamic_conv_fused(x, self.weight_linear(x), mask, *self.shape)
        return low_precision(y, fp8_factor)


class _Layer:
    """The common part of both kinds of layer: the convolution with its linears, and the feed-forward."""

    def __init__(
        self,
        weights: Weights,
        layer: EncoderLayer | DecoderLayer,
        conv_norm: nn.LayerNorm,
        ffn_norm: nn.LayerNorm,
        mask_conv: bool,
    ) -> None:
        self.linear1, self.linear2 = weights.linear(layer.linear1), weights.linear(layer.linear2)
        self.fc2 = weights.linear(layer.fc2)
        self.fc1 = weights.linear(layer.fc1, reader=self.fc2)
        self.conv = _Convolution(weights, layer.conv)
        self.conv_norm, self.ffn_norm = LayerNorm.of(conv_norm), LayerNorm.of(ffn_norm)
        self.mask_conv, self.heads = mask_conv, self.conv.shape[0]

    def _convolve(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The convolution between its linears, of what ``linear1`` reads; read by ``linear2``."""
        gated = self.linear1.gated(x, mask, self.conv.linear1.fp8_factor)
        return self.conv(gated, mask if self.mask_conv else None, self.linear2.fp8_factor)

    def for_stack(self) -> StackLayer:
        """Return the layer's weights in the form that the kernel for all layers takes."""
        weights = LayerWeights(
            self.linear1.weight,
            self.conv.linear1.weight,
            self.conv.weight_linear.weight,
            self.linear2.weight,
            self.fc1.weight,
            self.fc2.weight,
            *(x.weight for x in self._attention_linears()),
        )
        constants = {
            "linear1_bias": self.linear1.bias,
            "conv_linear1_bias": self.conv.linear1.bias,
            "linear2_bias": self.linear2.bias,
            **_norm_constants("conv", self.conv_norm),
            **self._attention_constants(),
            "fc1_bias": self.fc1.bias,
            "fc2_bias": self.fc2.bias,
            **_norm_constants("ffn", self.ffn_norm),
        }
        return StackLayer(weights, constants, *self.conv.shape[1:])

    def _attention_linears(self) -> list[AnyLinear]:
        return []

    def _attention_constants(self) -> dict[str, Tensor]:
        return {}


def _norm_constants(name: str, norm: LayerNorm) -> dict[str, Tensor]:
    return {f"{name}_norm_scale": norm.scale, f"{name}_norm_shift": norm.shift}


class _EncoderLayer(_Layer):
    def __init__(self, weights: Weights, layer: EncoderLayer, mask_conv: bool) -> None:
        super().__init__(weights, layer, *layer.layer_norms, mask_conv)

    def __call__(
        self, x: Tensor, read: Tensor, mask: Tensor, fp8_factor: float | None
    ) -> tuple[Tensor, Tensor]:
        """Apply one layer to ``x``, which ``linear1`` reads as ``read``.

        Returns:
            the result, as it is and as its reader with ``fp8_factor`` reads it.
        """
        y = self._convolve(read, mask)
        x, read = self.conv_norm.of_sum(y, self.linear2, x, None, self.fc1.fp8_factor)
        return self.ffn_norm.of_sum(self.fc1(read, relu=True), self.fc2, x, None, fp8_factor)


class _DecoderLayer(_Layer):
    def __init__(self, weights: Weights, index: int, layer: DecoderLayer) -> None:
        norms = layer.conv_layer_norm, layer.final_layer_norm
        super().__init__(weights, layer, *norms, mask_conv=False)
        self.attention_norm = LayerNorm.of(layer.encoder_attn_layer_norm)
        self.q_proj = weights.linear(layer.encoder_attn.q_proj)
        self.out_proj = weights.linear(layer.encoder_attn.out_proj)
        self.index, self.heads, self.tf32 = index, layer.encoder_attn.heads, weights.tf32
        channels = self.q_proj.weight.shape[0]
        self.fused = lite.attention_fits(channels, self.heads, weights.dtype)

    def __call__(
        self,
        x: Tensor,
        read: Tensor,
        source: Source,
        after: Tensor | None,
        fp8_factor: float | None,
    ) -> tuple[Tensor, Tensor]:
        """Apply one layer as the encoder's, and add ``after`` [T, C], the positions of the next layer."""
        y = self._convolve(read, None)
        x, read = self.conv_norm.of_sum(y, self.linear2, x, None, self.q_proj.fp8_factor)
        y = self._attend(self.q_proj(read), source)
        x, read = self.attention_norm.of_sum(y, self.out_proj, x, None, self.fc1.fp8_factor)
        return self.ffn_norm.of_sum(self.fc1(read, relu=True), self.fc2, x, after, fp8_factor)

    def _attention_linears(self) -> list[AnyLinear]:
        return [self.q_proj, self.out_proj]

    def _attention_constants(self) -> dict[str, Tensor]:
        biases = {"query_bias": self.q_proj.bias, "out_bias": self.out_proj.bias}
        return biases | _norm_constants("attention", self.attention_norm)

    def _attend(self, query: Tensor, source: Source) -> Tensor:
        """The attention's result, as ``out_proj`` reads it."""
        keys_values, mask, factor = source.keys_values, source.mask, self.out_proj.fp8_factor
        if self.fused:
            arguments = query, keys_values, mask, self.index, self.heads
            return lite.attention(*arguments, self.tf32, factor)
        width = query.shape[-1]
        pair = keys_values[:, :, 2 * self.index * width :][:, :, : 2 * width]
        query, key, value = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (query, pair[:, :, :width], pair[:, :, width:])
        )
        weights = masked_softmax(query @ key.transpose(2, 3), mask[:, None, None] == 0)
        return low_precision((weights @ value).transpose(1, 2).flatten(2), factor)
