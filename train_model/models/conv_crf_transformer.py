"""``conv_crf_transformer``: a non-autoregressive translator of dynamic convolutions with a CRF on top.

The network makes the whole target at once: the encoder predicts its length, the decoder fills a canvas
of unknown tokens from an attention copy of the source embeddings, and a CRF picks the best path through
the candidates. Computation and parameter names follow ustcdane/lite_transformer_trt,
``my_lite_plugins/models/liteConv_NAT.py`` (on fairseq 0.12.2). Two things differ, both where the original
crashes or writes arbitrary values: predicted lengths are clamped to 2..canvas, and positions after the
end of a sentence give ``<pad>`` with score 0.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train_model.data.dictionary import PAD, UNK
from train_model.models.chains import add_dropout, residual_norm, zero_padding
from train_model.models.config import NatConfig
from train_model.models.conv_block import ConvBlock
from train_model.models.dynamic_crf import DynamicCRF
from train_model.models.layers import (
    MultiheadAttention,
    embedding,
    linear,
    masked_softmax,
    positions,
    token_embeddings,
    token_positions,
)
from train_model.models.one_pass import (
    LENGTH_CLASSES,
    LENGTH_OFFSET,
    OnePassTranslator,
    length_logits,
)
from train_model.models.quantized import QuantizedLinear, replace_linears


class EncoderOut(NamedTuple):
    """The encoder's output for the decoder; S is the padded length of the source."""

    x: Tensor  # [B, S, C], the last layer's output
    padding_mask: Tensor  # [B, S] bool, True at padding
    embedding: Tensor  # [B, S, C], token embeddings without positions
    positions: Tensor  # [B, S, C], position embeddings


class _Layer(ConvBlock):
    """Convolution block and feed-forward block, as both sides have them."""

    def _build_ffn(self, config: NatConfig, side: str) -> None:
        width, ffn_dim = config.encoder_embed_dim, getattr(config, f"{side}_ffn_embed_dim")
        self.fc1, self.fc2 = linear(width, ffn_dim), linear(ffn_dim, width)
        self.normalize_before = getattr(config, f"{side}_normalize_before")
        self.dropout, self.relu_dropout = config.dropout, config.relu_dropout

    def _residual(self, norm: nn.LayerNorm, x: Tensor, branch) -> Tensor:
        """Add ``branch`` of ``x`` to ``x``; normalise before the branch or after the sum."""
        y = branch(norm(x) if self.normalize_before else x)
        if self.training and not self.normalize_before:
            return residual_norm(x, y, norm.weight, norm.bias, self.dropout)
        x = x + F.dropout(y, self.dropout, self.training)
        return x if self.normalize_before else norm(x)

    def _ffn(self, x: Tensor) -> Tensor:
        return self.fc2(F.dropout(F.relu(self.fc1(x)), self.relu_dropout, self.training))


class EncoderLayer(_Layer):
    """Convolution block and feed-forward block, each with residual and LayerNorm."""

    def __init__(self, config: NatConfig, kernel_size: int) -> None:
        super().__init__()
        self.build_conv(config, "encoder", kernel_size)
        self._build_ffn(config, "encoder")
        self.mask_conv = config.padding_policy == "masked"
        norms = [nn.LayerNorm(config.encoder_embed_dim) for _ in range(2)]
        self.layer_norms = nn.ModuleList(norms)

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C]."""

        def conv(x: Tensor) -> Tensor:
            x = zero_padding(self.project_in(x), padding_mask)
            return self.linear2(self.conv(x, padding_mask if self.mask_conv else None))

        x = self._residual(self.layer_norms[0], x, conv)
        return self._residual(self.layer_norms[1], x, self._ffn)


class DecoderLayer(_Layer):
    """Causal convolution block, attention to the source, feed-forward block."""

    def __init__(self, config: NatConfig, kernel_size: int) -> None:
        super().__init__()
        width = config.encoder_embed_dim
        self.build_conv(config, "decoder", kernel_size)
        self._build_ffn(config, "decoder")
        self.conv_layer_norm = nn.LayerNorm(width)
        self.encoder_attn = MultiheadAttention(
            width, config.decoder_attention_heads, config.attention_dropout
        )
        self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C], with the source's keys and values [B, heads, S, C / heads]."""

        def conv(x: Tensor) -> Tensor:
            return self.linear2(self.conv(self.project_in(x)))

        def attend(x: Tensor) -> Tensor:
            return self.encoder_attn.attend(x, key, value, padding_mask[:, None, None])

        x = self._residual(self.conv_layer_norm, x, conv)
        x = self._residual(self.encoder_attn_layer_norm, x, attend)
        return self._residual(self.final_layer_norm, x, self._ffn)


class _Stack(nn.Module):
    """Embeddings, layers and final norm of one side; ``version`` is that of fairseq's module."""

    def __init__(
        self, config: NatConfig, side: str, layer: type, version: float, embed_tokens: nn.Embedding
    ) -> None:
        super().__init__()
        self.register_buffer("version", torch.tensor([version]))
        self.embed_tokens = embed_tokens
        self.embed_positions = positions(config, side)
        kernel_sizes = getattr(config, f"{side}_kernel_size_list")
        self.layers = nn.ModuleList(layer(config, size) for size in kernel_sizes)
        norm_first = getattr(config, f"{side}_normalize_before")
        self.layer_norm = nn.LayerNorm(config.encoder_embed_dim) if norm_first else None
        self.dropout = config.dropout


class Encoder(_Stack):
    """Source tokens to hidden states."""

    def __init__(self, config: NatConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__(config, "encoder", EncoderLayer, 2.0, embed_tokens)
        self.max_positions = config.max_source_positions

    def embed(self, src_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [B, S, C] of the tokens [B, S], and of their positions."""
        embedded = self.embed_tokens(src_tokens)
        if self.embed_positions is None:
            return embedded, torch.zeros_like(embedded)
        return embedded, self.embed_positions(src_tokens)

    def forward(self, src_tokens: Tensor) -> EncoderOut:
        """Encode [B, S] tokens; padding may be on either side."""
        if src_tokens.shape[1] > self.max_positions:
            raise ValueError(
                f"a source of {src_tokens.shape[1]} tokens is longer than the "
                f"{self.max_positions} positions of the model"
            )
        padding_mask = src_tokens.eq(PAD)
        embedded, at = self.embed(src_tokens)
        x = F.dropout(embedded + at, self.dropout, self.training)
        for layer in self.layers:
            x = layer(x, padding_mask)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return EncoderOut(x, padding_mask, embedded, at)


class Decoder(_Stack):
    """Predicts the length, and maps the canvas to the scores of every token at every position."""

    def __init__(self, config: NatConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__(config, "decoder", DecoderLayer, 3.0, embed_tokens)
        width = config.encoder_embed_dim
        self.output_projection = nn.Linear(width, config.tgt_vocab, bias=False)
        if config.share_decoder_input_output_embed or config.share_all_embeddings:
            self.output_projection.weight = embed_tokens.weight
        else:
            nn.init.normal_(self.output_projection.weight, std=width**-0.5)
        self.embed_length = embedding(LENGTH_CLASSES, width, padding_idx=None)
        self.copy_attn = linear(width, width, bias=False) if config.src_embedding_copy else None
        # set by train_model.models.fold, which replaces other layers by these
        self.source_projection: nn.Linear | None = None
        self.register_buffer("copy_queries", None, persistent=False)
        self.detach_length = config.sg_length_pred

    def length_logits(self, source: EncoderOut) -> Tensor:
        """Scores of the length classes [B, 256] from the mean over the real source positions."""
        weight = self.embed_length.weight
        return length_logits(source.x, source.padding_mask, weight, self.detach_length)

    def source_keys(self, source: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Every layer's keys and values [B, heads, S, C / heads] of the encoder's output [B, S, C]."""
        if self.source_projection is None:
            return [layer.encoder_attn.project_source(source) for layer in self.layers]
        split_heads = self.layers[0].encoder_attn.split_heads
        projected = self.source_projection(source).chunk(2 * len(self.layers), -1)
        pairs = zip(projected[::2], projected[1::2], strict=True)
        return [(split_heads(key), split_heads(value)) for key, value in pairs]

    def embed(self, canvas: Tensor, source: EncoderOut) -> tuple[Tensor, Tensor | None]:
        """The decoder's input [B, T, C] without positions, and the positions [B, T, C]."""
        x = self.embed_tokens(canvas)
        at = None if self.embed_positions is None else self.embed_positions(canvas)
        if self.copy_attn is not None:
            keys = (source.embedding + source.positions).transpose(1, 2)
            if self.copy_queries is not None:
                query = F.embedding(token_positions(canvas), self.copy_queries)
            else:
                query = self.copy_attn(torch.zeros_like(x) if at is None else at)
            weights = masked_softmax(query @ keys, source.padding_mask[:, None])
            x = torch.where(canvas.eq(UNK)[:, :, None], weights @ source.embedding, x)
        return x, at

    def forward(self, canvas: Tensor, source: EncoderOut) -> Tensor:
        """Scores [B, T, V] for the canvas [B, T]."""
        x, at = self.embed(canvas, source)
        for layer, (key, value) in zip(self.layers, self.source_keys(source.x), strict=True):
            dropout = self.dropout if self.training else 0.0
            # the original adds the positions before every layer
            x = F.dropout(x, dropout) if at is None else add_dropout(x, at, dropout)
            x = layer(x, key, value, source.padding_mask)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return self.output_projection(x)


class ConvCrfTransformer(OnePassTranslator):
    """The whole network. Specials: ``<s>`` 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3."""

    def __init__(self, config: NatConfig) -> None:
        super().__init__()
        self.config = config
        src_embed, tgt_embed = token_embeddings(config)
        self.encoder = Encoder(config, src_embed)
        self.decoder = Decoder(config, tgt_embed)
        self.crf_layer = DynamicCRF(
            config.tgt_vocab, config.crf_lowrank_approx, config.crf_beam_approx
        )
        if config.int8_layers:
            for layer in [*self.encoder.layers, *self.decoder.layers]:
                layer.conv.linear2 = None
            replace_linears(self, config.int8_layers, QuantizedLinear)

    def with_output(self, src_tokens: Tensor, encoded: Tensor) -> EncoderOut:
        """Rebuild the result of :meth:`encode` for ``src_tokens`` [B, S] from its part ``x``."""
        return EncoderOut(encoded, src_tokens.eq(PAD), *self.encoder.embed(src_tokens))

    def choose(self, logits: Tensor, canvas: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and scores of the best path through ``logits`` [B, T, V]; padding stays."""
        return self.crf_layer.choose(logits, canvas.ne(PAD))

    def training_outputs(
        self, source: EncoderOut, prev_output_tokens: Tensor, tgt_tokens: Tensor
    ) -> dict[str, dict[str, Any]]:
        """Return the inputs of fairseq's ``nat_loss``: word, CRF and length loss, each with its factor.

        Args:
            source: what :meth:`encode` returns for B sentences.
            prev_output_tokens: the canvas [B, T] int64, unknown tokens at masked positions.
            tgt_tokens: the reference [B, T] int64, both ends included.
        """
        length_out = self.decoder.length_logits(source)
        logits = self.decode(prev_output_tokens, source)
        real = tgt_tokens.ne(PAD)
        length_tgt = real.sum(1)
        if self.config.pred_length_offset:
            length_tgt = length_tgt - (~source.padding_mask).sum(1) + LENGTH_OFFSET
        crf_nll = -self.crf_layer(logits, tgt_tokens, real) / real.sum(1)
        return {
            "word_ins": {
                "out": logits,
                "tgt": tgt_tokens,
                "mask": real,
                "ls": self.config.label_smoothing,
                "nll_loss": True,
                "factor": self.config.word_ins_loss_factor,
            },
            "word_crf": {"loss": crf_nll.mean()},
            "length": {
                "out": length_out,
                "tgt": length_tgt.clamp(0, LENGTH_CLASSES - 1),
                "factor": self.config.length_loss_factor,
            },
        }
