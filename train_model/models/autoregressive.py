"""The common part of autoregressive translators: everything except the mixing of positions in a layer.

The networks are ``transformer``, ``lightconv`` and ``transformer_multibranch_v2``. Each has a file with its
layers: a mixing block (self-attention, a convolution, or both) and the names of its norms in checkpoints.
This file has the embeddings, attention to the source, the feed-forward block, the projection to the
vocabulary and decoding with a state. Computation and names follow fairseq 0.12.2.
"""

import abc
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train_model.data.dictionary import PAD
from train_model.models.config import NetworkConfig
from train_model.models.layers import (
    MultiheadAttention,
    activation,
    linear,
    numbered_state_shapes,
    positions,
    token_embeddings,
)
from train_model.models.quantized import QuantizedLinear, replace_linears

State = dict[str, Tensor]


class EncoderOut(NamedTuple):
    """The encoder's output for the decoder in training; S is the padded length of the source."""

    x: Tensor  # [B, S, C]
    padding_mask: Tensor  # [B, S] bool, True at padding


class Source(NamedTuple):
    """The decoder's inputs from the source for every step, computed once per sentence.

    All hypotheses of a sentence share them: attention treats the beam as a length, so nothing is repeated.
    """

    padding_mask: Tensor  # [B, S] bool, True at padding
    keys: list[Tensor]  # per layer: [B, heads, S, C / heads]
    values: list[Tensor]


class Layer(nn.Module, abc.ABC):
    """A mixing block and a feed-forward block, each with a residual and a LayerNorm."""

    def __init__(self, config: NetworkConfig, side: str, index: int) -> None:
        """Build layer ``index`` of the ``encoder`` or the ``decoder``."""
        super().__init__()
        width, ffn_dim = config.width(side), getattr(config, f"{side}_ffn_embed_dim")
        self.build_mixing(config, side, index)
        self.fc1, self.fc2 = linear(width, ffn_dim), linear(ffn_dim, width)
        self.normalize_before = getattr(config, f"{side}_normalize_before")
        self.dropout, self.activation_dropout = config.dropout, config.activation_dropout
        self.activation = activation(config.activation_fn)

    @abc.abstractmethod
    def build_mixing(self, config: NetworkConfig, side: str, index: int) -> None:
        """Make the modules of the mixing block, and the norms."""

    @property
    def mixing_norm(self) -> nn.LayerNorm:
        """The norm of the mixing block, under its usual name."""
        return self.self_attn_layer_norm

    @property
    def ffn_norm(self) -> nn.LayerNorm:
        """The norm of the feed-forward block, under its usual name."""
        return self.final_layer_norm

    @abc.abstractmethod
    def mix(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """[B, T, C] -> [B, T, C]; the mask [B, T], True at padding, hides positions."""

    @abc.abstractmethod
    def state_shapes(self, rows: int, length: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the state of ``rows`` sequences with room for ``length`` positions, by name."""

    @abc.abstractmethod
    def mix_step(self, x: Tensor, state: State, position: Tensor) -> tuple[Tensor, State]:
        """Mix one position of every sequence.

        Args:
            x: the input at ``position`` [N, 1, C].
            state: tensors of :meth:`state_shapes`; zeros before the first step.
            position: the number of earlier steps [], int64; less than the state's length.

        Returns:
            The output [N, 1, C] and the new state.
        """

    def residual(self, norm: nn.LayerNorm, x: Tensor, branch) -> Tensor:
        """Add ``branch`` of ``x`` to ``x``; normalise before the branch or after the sum."""
        y = branch(norm(x) if self.normalize_before else x)
        x = x + F.dropout(y, self.dropout, self.training)
        return x if self.normalize_before else norm(x)

    def ffn(self, x: Tensor) -> Tensor:
        """Apply the feed-forward block."""
        x = F.dropout(self.activation(self.fc1(x)), self.activation_dropout, self.training)
        return self.fc2(x)


class EncoderLayer(Layer):
    """Mixing block and feed-forward block."""

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C]."""
        x = self.residual(self.mixing_norm, x, lambda x: self.mix(x, padding_mask))
        return self.residual(self.ffn_norm, x, self.ffn)


class DecoderLayer(Layer):
    """Mixing block, attention to the source, feed-forward block."""

    def __init__(self, config: NetworkConfig, side: str, index: int) -> None:
        super().__init__(config, side, index)
        width = config.width(side)
        self.encoder_attn = MultiheadAttention(
            width,
            config.decoder_attention_heads,
            config.attention_dropout,
            source_width=config.encoder_embed_dim,
        )
        self.encoder_attn_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, source: EncoderOut, padding_mask: Tensor | None = None) -> Tensor:
        """All positions at once, [B, T, C] -> [B, T, C].

        Args:
            x: input [B, T, C].
            source: the encoder's output.
            padding_mask: True at padding of the target [B, T], which the mixing block then does not see.
                Causal layers do not need it, since padding follows the target.
        """
        return self._blocks(
            x,
            lambda x: self.mix(x, padding_mask),
            lambda x: self.encoder_attn(x, source.x, source.padding_mask),
        )

    def _blocks(self, x: Tensor, mix, attend) -> Tensor:
        x = self.residual(self.mixing_norm, x, mix)
        x = self.residual(self.encoder_attn_layer_norm, x, attend)
        return self.residual(self.ffn_norm, x, self.ffn)

    def step(
        self, x: Tensor, hidden: Tensor, key: Tensor, value: Tensor, state: State, position: Tensor
    ) -> tuple[Tensor, State]:
        """One position of every hypothesis, [B, beam, C] -> [B, beam, C].

        Args:
            x: input [B, beam, C].
            hidden: the source's padding mask [B, 1, 1, S].
            key: keys of the source [B, heads, S, C / heads].
            value: values of the source, in the same shape.
            state: state of the B * beam hypotheses, see :meth:`state_shapes`.
            position: [] int64.
        """
        new_state: State = {}

        def mix(x: Tensor) -> Tensor:
            y, values = self.mix_step(x.flatten(0, 1)[:, None], state, position)
            new_state.update(values)
            return y.view(x.shape)

        def attend(x: Tensor) -> Tensor:
            return self.encoder_attn.attend(x, key, value, hidden)

        return self._blocks(x, mix, attend), new_state


class _Stack(nn.Module):
    """Embedding, positions, layers and the final norm of either side."""

    def __init__(
        self,
        config: NetworkConfig,
        side: str,
        layer: type[Layer],
        embed_tokens: nn.Embedding,
        max_positions: int,
    ) -> None:
        super().__init__()
        width = config.width(side)
        self.register_buffer("version", torch.tensor([3.0]))
        self.embed_tokens = embed_tokens
        self.embed_scale = 1.0 if config.no_scale_embedding else width**0.5
        self.embed_positions = positions(config, side)
        self.layernorm_embedding = nn.LayerNorm(width) if config.layernorm_embedding else None
        layers = getattr(config, f"{side}_layers")
        self.layers = nn.ModuleList(layer(config, side, index) for index in range(layers))
        self.layer_norm = nn.LayerNorm(width) if config.has_final_norm(side) else None
        self.dropout, self.max_positions = config.dropout, max_positions

    def embed(self, tokens: Tensor) -> Tensor:
        """Scaled embeddings with positions, [B, T] -> [B, T, C]."""
        if tokens.shape[1] > self.max_positions:
            raise ValueError(
                f"{tokens.shape[1]} tokens are more than the {self.max_positions} positions of the model"
            )
        at = None if self.embed_positions is None else self.embed_positions(tokens)
        return F.dropout(self._embed(tokens, at), self.dropout, self.training)

    def _embed(self, tokens: Tensor, at: Tensor | None) -> Tensor:
        x = self.embed_scale * self.embed_tokens(tokens)
        if at is not None:
            x = x + at
        return x if self.layernorm_embedding is None else self.layernorm_embedding(x)

    def normalize(self, x: Tensor) -> Tensor:
        """Apply the final norm, if there is one."""
        return x if self.layer_norm is None else self.layer_norm(x)


class Encoder(_Stack):
    """Source tokens to hidden states."""

    layer_class: ClassVar[type[EncoderLayer]]

    def __init__(self, config: NetworkConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__(
            config, "encoder", self.layer_class, embed_tokens, config.max_source_positions
        )

    def forward(self, src_tokens: Tensor) -> EncoderOut:
        """Encode [B, S] tokens; padding may be on either side."""
        padding_mask = src_tokens.eq(PAD)
        x = self.embed(src_tokens)
        for layer in self.layers:
            x = layer(x, padding_mask)
        return EncoderOut(self.normalize(x), padding_mask)


class _OutputProjection(nn.Linear):
    """The projection to the vocabulary; checkpoints store its weight under another name."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__(*reversed(weight.shape), bias=False, device="meta")
        self.weight = weight

    def _save_to_state_dict(self, *_) -> None:
        pass

    def _load_from_state_dict(self, *_) -> None:
        pass


class Decoder(_Stack):
    """Target tokens so far, and the source, to the logits of the next token."""

    layer_class: ClassVar[type[DecoderLayer]]

    def __init__(self, config: NetworkConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__(
            config, "decoder", self.layer_class, embed_tokens, config.max_target_positions
        )
        shared = config.share_all_embeddings or config.share_decoder_input_output_embed
        self.build_projection(config, embed_tokens.weight if shared else None)

    def build_projection(self, config: NetworkConfig, shared: nn.Parameter | None) -> None:
        """Make ``output_projection`` with the ``shared`` weight [V, C], or with a separate one."""
        self.embed_out = None
        if shared is None:
            width = config.width("decoder")
            self.embed_out = nn.Parameter(torch.empty(config.tgt_vocab, width))
            nn.init.normal_(self.embed_out, std=width**-0.5)
        self.output_projection = _OutputProjection(self.embed_out if shared is None else shared)

    def project(self, x: Tensor) -> Tensor:
        """Hidden states [.., C] to logits [.., V]."""
        return self.output_projection(x)

    def forward(self, prev_output_tokens: Tensor, source: EncoderOut) -> Tensor:
        """Logits [B, T, V] of the tokens that follow each of ``prev_output_tokens`` [B, T]."""
        x = self.embed(prev_output_tokens)
        for layer in self.layers:
            x = layer(x, source)
        return self.project(self.normalize(x))

    def project_source(self, source: EncoderOut) -> Source:
        """Keys and values of the source for every layer."""
        pairs = [layer.encoder_attn.project_source(source.x) for layer in self.layers]
        return Source(source.padding_mask, [key for key, _ in pairs], [value for _, value in pairs])

    def state_shapes(self, rows: int, length: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the state of ``rows`` hypotheses with room for ``length`` tokens, by name."""
        shapes = numbered_state_shapes(self.layers, rows, length)
        return {f"layers.{name}": shape for name, shape in shapes.items()}

    def step(
        self, tokens: Tensor, parents: Tensor | None, position: Tensor, source: Source, state: State
    ) -> tuple[Tensor, State]:
        """Take one step of every hypothesis.

        Args:
            tokens: last token of each hypothesis [B, beam], int64.
            parents: the beam that each hypothesis continues [B, beam], int64, 0..beam-1. None: each
                continues itself, and keys and values of the state are written in place.
            position: the number of earlier steps [], int64.
            source: from :meth:`project_source`.
            state: tensors of :meth:`state_shapes` for B * beam rows, zeros before the first step.

        Returns:
            Log-probabilities of the next token [B, beam, V], float32, and the new state.
        """
        hidden = source.padding_mask[:, None, None]
        at = None
        if self.embed_positions is not None:  # positions are counted from PAD + 1
            at = self.embed_positions.vectors.index_select(0, position.view(1) + PAD + 1)
        x = self._embed(tokens, at)
        if parents is not None:
            state = _reorder(state, parents)
        new_state: State = {}
        for index, layer in enumerate(self.layers):
            prefix = f"layers.{index}."
            own = {
                name.removeprefix(prefix): value
                for name, value in state.items()
                if name.startswith(prefix)
            }
            key, value = source.keys[index], source.values[index]
            x, values = layer.step(x, hidden, key, value, own, position)
            new_state |= {prefix + name: value for name, value in values.items()}
        logits = self.project(self.normalize(x))
        return logits.float().log_softmax(-1), new_state


def _reorder(state: State, parents: Tensor) -> State:
    """Return the state with each hypothesis replaced by its parent [B, beam]."""
    batch, beam = parents.shape
    first = torch.arange(batch, device=parents.device)[:, None] * beam
    rows = (first + parents).flatten()
    return {name: value.index_select(0, rows) for name, value in state.items()}


class AutoregressiveTranslator(nn.Module):
    """The whole network. It gives one token per step; see ``incremental`` and ``beam_search``."""

    encoder_type: ClassVar[type[Encoder]]
    decoder_type: ClassVar[type[Decoder]]

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        src_embed, tgt_embed = token_embeddings(config)
        self.encoder = self.encoder_type(config, src_embed)
        self.decoder = self.decoder_type(config, tgt_embed)
        replace_linears(self, config.int8_layers, QuantizedLinear)

    def encode(self, src_tokens: Tensor) -> EncoderOut:
        """Encode [B, S] int64 tokens."""
        return self.encoder(src_tokens)

    def decode(self, prev_output_tokens: Tensor, source: EncoderOut) -> Tensor:
        """Logits [B, T, V] with the reference [B, T], shifted right behind eos, as the past."""
        return self.decoder(prev_output_tokens, source)
