"""The folded network written out in the fused operators of ``trt_code/torch_ops``.

Shapes: B sentences, S source tokens, T canvas positions, C channels. Everything here can be captured
in a CUDA graph: no value of a tensor decides what runs.
"""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor, nn

from train_model.data.dictionary import PAD
from train_model.models.conv_crf_transformer import (
    ConvCrfTransformer,
    DecoderLayer,
    EncoderLayer,
)
from train_model.models.fold import fold
from train_model.models.layers import DynamicConv, masked_softmax
from train_model.models.one_pass import LENGTH_OFFSET
from trt_code.cuda_graph.packing import LayerWeights
from trt_code.cuda_graph.stack import ConvStack, StackLayer

lite = torch.ops.lite


class Source(NamedTuple):
    """The encoder's results that the decoder reads."""

    keys: Tensor  # [B, S, C] token and position embeddings: the keys of the attention copy
    embedded: Tensor  # [B, S, C] token embeddings: what is copied
    mask: Tensor  # [B, S] int32, 0 at padding
    keys_values: Tensor  # [B, S, 2 L C] keys and values of the L decoder layers, side by side
    lengths: Tensor  # [B] int64, predicted target lengths, at least 2
    encoded: Tensor  # [B, S, C] input of keys_values, which the side stream may still compute


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear layer's weights in the network's dtype; TF32 is for FP32 weights."""

    weight: Tensor
    bias: Tensor | None
    tf32: bool

    def __call__(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        return lite.linear(x, self.weight, self.bias, residual, relu, self.tf32)

    def gated(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """GLU of the result, zero where ``mask`` is 0."""
        return lite.linear_glu(x, self.weight, self.bias, mask, self.tf32)


@dataclasses.dataclass(frozen=True)
class LayerNorm:
    """LayerNorm with scale, shift and statistics in FP32."""

    scale: Tensor
    shift: Tensor
    eps: float

    def __call__(self, x: Tensor, after: Tensor | None = None) -> Tensor:
        """Normalise [B, T, C], then add ``after`` [T, C]."""
        if after is None:
            return lite.layer_norm(x, None, self.scale, self.shift, self.eps)
        return lite.layer_norm_add(x, self.scale, self.shift, self.eps, after)


class Fork:
    """Runs work on a side stream; a captured graph keeps this concurrency.

    Work inside ``with fork:`` may use only what existed at ``begin``; use its results only after ``join``.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

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
    return None


class FusedNetwork:
    """Encoder, length prediction, decoder and CRF of one model on one GPU in one precision."""

    def __init__(
        self,
        model: ConvCrfTransformer,
        dtype: torch.dtype,
        device: torch.device,
        tf32: bool = False,
    ) -> None:
        folded = fold(model).to(device)
        self.config, self.dtype, self.tf32 = model.config, dtype, tf32
        self._fork = Fork(device)
        encoder, decoder = folded.encoder, folded.decoder
        self.src_embed = encoder.embed_tokens.weight.detach().to(dtype)
        self.src_positions = encoder.embed_positions.vectors.detach().to(dtype)
        self.tgt_embed = decoder.embed_tokens.weight.detach().to(dtype)
        self.tgt_positions = decoder.embed_positions.vectors.detach().to(dtype)
        self.copy_queries = decoder.copy_queries.detach().to(dtype)
        self.encoder_layers = [_EncoderLayer(self, layer) for layer in encoder.layers]
        self.decoder_layers = [
            _DecoderLayer(self, i, layer) for i, layer in enumerate(decoder.layers)
        ]
        self.encoder_stack = self._stack(self.encoder_layers)
        self.decoder_stack = self._stack(self.decoder_layers)
        self.source_projection = self.linear(decoder.source_projection)
        self.length_projection = decoder.embed_length.weight.detach().to(dtype)
        self.output_projection = self.linear(decoder.output_projection)
        self.E1 = folded.crf_layer.E1.weight.detach().to(dtype)
        self.E2 = folded.crf_layer.E2.weight.detach().to(dtype)
        self.beam = folded.crf_layer.beam

    @property
    def mask_conv(self) -> bool:
        """Whether the convolution reads zeros at padding, so that padding does not change the result."""
        return self.config.padding_policy == "masked"

    @property
    def is_16_bit(self) -> bool:
        """Whether the dtype is FP16 or BF16, which the kernels for tensor cores need."""
        return self.dtype in (torch.float16, torch.bfloat16)

    def linear(self, layer: nn.Linear) -> Linear:
        """The weights of ``layer`` in this network's dtype."""
        bias = None if layer.bias is None else layer.bias.detach().to(self.dtype)
        return Linear(layer.weight.detach().to(self.dtype).contiguous(), bias, self.tf32)

    @staticmethod
    def layer_norm(layer: nn.LayerNorm) -> LayerNorm:
        """Scale and shift of ``layer``."""
        return LayerNorm(layer.weight.detach().float(), layer.bias.detach().float(), layer.eps)

    def _stack(self, layers: "list[_EncoderLayer] | list[_DecoderLayer]") -> ConvStack | None:
        """Return the layers as one kernel, or None if their sizes do not fit it."""
        heads = layers[0].conv.shape[0]
        sizes = {(x.conv.shape[0], *x.fc1.weight.shape, x.conv_norm.eps) for x in layers}
        alike = len(sizes) == 1 and all(x.heads == heads for x in layers)
        fits = self.is_16_bit and alike and layers[0].fc1.weight.shape[1] == 64 * heads
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
        x = self._run_encoder(keys, mask)
        self._fork.begin()
        relative = self.config.pred_length_offset
        offset = -LENGTH_OFFSET if relative else 0
        # launched first: the product fills the GPU, and the canvas needs only the lengths
        lengths = lite.predict_length(x, mask, self.length_projection, limits, offset, relative)
        with self._fork:
            keys_values = self.source_projection(x)
        return Source(keys, embedded, mask, keys_values, lengths, x)

    def _run_encoder(self, x: Tensor, mask: Tensor) -> Tensor:
        stack = self.encoder_stack
        if stack is not None and stack.fits(x):
            return stack(x, mask)
        for layer in self.encoder_layers:
            x = layer(x, mask)
        return x

    def _run_decoder(self, x: Tensor, source: Source) -> Tensor:
        at = self.tgt_positions[PAD + 1 : PAD + 1 + x.shape[1]]
        stack, keys_values = self.decoder_stack, source.keys_values
        if stack is not None and stack.fits(x, keys_values):
            return stack(x, None, keys_values, source.mask, at)
        for layer in self.decoder_layers:
            x = layer(x, source, None if layer is self.decoder_layers[-1] else at)
        return x

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
        x = self._run_decoder(x, source)
        values, indices = lite.top_k(self.output_projection(x), self.beam)
        return lite.crf_decode(values, indices, self.E1, self.E2, mask)


class _Convolution:
    """The dynamic convolution: gate, taps from the gated input, softmax, weighted sum."""

    def __init__(self, network: FusedNetwork, conv: DynamicConv) -> None:
        self.linear1 = network.linear(conv.linear1)
        self.weight_linear = network.linear(conv.weight_linear)
        self.shape = conv.heads, conv.kernel_size, conv.padding_l
        width = self.weight_linear.weight.shape[1]
        self.fused = lite.self_conv_fits(width, *self.shape, network.dtype)

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.fused:
            gate = not lite.gates_in_product(x, self.linear1.tf32)
            x = self.linear1(x) if gate else self.linear1.gated(x)
            weight, tf32 = self.weight_linear.weight, self.weight_linear.tf32
            return lite.self_conv(x, weight, mask, *self.shape, gate, tf32)
        x = self.linear1.gated(x)
        return lite.dynamic_conv_fused(x, self.weight_linear(x), mask, *self.shape)


class _Layer:
    """The common part of both kinds of layer: the convolution with its linears, and the feed-forward."""

    linear1: Linear
    conv: "_Convolution"
    linear2: Linear
    conv_norm: LayerNorm
    fc1: Linear
    fc2: Linear
    ffn_norm: LayerNorm

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

    def _attention_linears(self) -> list[Linear]:
        return []

    def _attention_constants(self) -> dict[str, Tensor]:
        return {}


def _norm_constants(name: str, norm: LayerNorm) -> dict[str, Tensor]:
    return {f"{name}_norm_scale": norm.scale, f"{name}_norm_shift": norm.shift}


class _EncoderLayer(_Layer):
    def __init__(self, network: FusedNetwork, layer: EncoderLayer) -> None:
        self.linear1, self.linear2 = network.linear(layer.linear1), network.linear(layer.linear2)
        self.fc1, self.fc2 = network.linear(layer.fc1), network.linear(layer.fc2)
        self.conv = _Convolution(network, layer.conv)
        self.conv_norm, self.ffn_norm = map(network.layer_norm, layer.layer_norms)
        self.mask_conv, self.heads = network.mask_conv, self.conv.shape[0]

    def __call__(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.conv(self.linear1.gated(x, mask), mask if self.mask_conv else None)
        x = self.conv_norm(self.linear2(y, residual=x))
        return self.ffn_norm(self.fc2(self.fc1(x, relu=True), residual=x))


class _DecoderLayer(_Layer):
    mask_conv = False

    def __init__(self, network: FusedNetwork, index: int, layer: DecoderLayer) -> None:
        self.linear1, self.linear2 = network.linear(layer.linear1), network.linear(layer.linear2)
        self.fc1, self.fc2 = network.linear(layer.fc1), network.linear(layer.fc2)
        self.conv = _Convolution(network, layer.conv)
        self.conv_norm = network.layer_norm(layer.conv_layer_norm)
        self.attention_norm = network.layer_norm(layer.encoder_attn_layer_norm)
        self.ffn_norm = network.layer_norm(layer.final_layer_norm)
        self.q_proj = network.linear(layer.encoder_attn.q_proj)
        self.out_proj = network.linear(layer.encoder_attn.out_proj)
        self.index, self.heads, self.tf32 = index, layer.encoder_attn.heads, network.tf32
        head_width = self.q_proj.weight.shape[0] // self.heads
        self.fused = head_width <= 128 and (head_width % 16 == 0 or not network.is_16_bit)

    def __call__(self, x: Tensor, source: Source, after: Tensor | None) -> Tensor:
        """Apply one layer and add ``after`` [T, C], the positions of the next layer."""
        y = self.conv(self.linear1.gated(x), None)
        x = self.conv_norm(self.linear2(y, residual=x))
        x = self.attention_norm(self.out_proj(self._attend(self.q_proj(x), source), residual=x))
        return self.ffn_norm(self.fc2(self.fc1(x, relu=True), residual=x), after)

    def _attention_linears(self) -> list[Linear]:
        return [self.q_proj, self.out_proj]

    def _attention_constants(self) -> dict[str, Tensor]:
        biases = {"query_bias": self.q_proj.bias, "out_bias": self.out_proj.bias}
        return biases | _norm_constants("attention", self.attention_norm)

    def _attend(self, query: Tensor, source: Source) -> Tensor:
        keys_values, mask = source.keys_values, source.mask
        if self.fused:
            return lite.attention(query, keys_values, mask, self.index, self.heads, self.tf32)
        width = query.shape[-1]
        pair = keys_values[:, :, 2 * self.index * width :][:, :, : 2 * width]
        query, key, value = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (query, pair[:, :, :width], pair[:, :, width:])
        )
        weights = masked_softmax(query @ key.transpose(2, 3), mask[:, None, None] == 0)
        return (weights @ value).transpose(1, 2).flatten(2)
