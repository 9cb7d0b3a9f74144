"""``transformer_multibranch_v2``: the Lite Transformer, an autoregressive translator.

A Transformer with long-short range attention in place of self-attention and an FFN as narrow as its
embedding. The computation and the parameter names are those of mit-han-lab/lite-transformer,
``fairseq/models/transformer_multibranch_v2.py``.
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train_model.data.dictionary import PAD
from train_model.models.layers import MultiheadAttention, embedding, linear, positions
from train_model.models.multibranch import MultiBranch
from train_model.models.multibranch_config import MultibranchConfig
from train_model.models.quantized import QuantizedLinear, replace_linears

State = dict[str, Tensor]


class EncoderOut(NamedTuple):
    """What teacher forcing needs of the source; S is the source's padded length."""

    x: Tensor  # [B, S, C]
    padding_mask: Tensor  # [B, S] bool, True at padding


class Source(NamedTuple):
    """What one-step decoding needs of the source, computed once a sentence.

    Hypotheses of one sentence share it: a beam is a length to attention, so nothing is repeated.
    """

    padding_mask: Tensor  # [B, S] bool, True at padding
    keys: list[Tensor]  # a layer: [B, heads, S, C / heads]
    values: list[Tensor]


class _Layer(nn.Module):
    """Long-short range attention and the feed-forward block, as both sides have them."""

    def __init__(self, config: MultibranchConfig, side: str, kernel_size: int) -> None:
        super().__init__()
        width, ffn_dim = config.encoder_embed_dim, getattr(config, f"{side}_ffn_embed_dim")
        self.self_attn = MultiBranch(
            config.branches(side),
            kernel_size,
            causal=side == "decoder",
            mask_conv=config.padding_policy == "masked",
            glu=getattr(config, f"{side}_glu"),
            attention_dropout=config.attention_dropout,
            weight_softmax=config.weight_softmax,
            weight_dropout=config.weight_dropout,
            with_linear=config.conv_linear,
        )
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = linear(width, ffn_dim), linear(ffn_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.normalize_before = getattr(config, f"{side}_normalize_before")
        self.dropout, self.activation_dropout = config.dropout, config.activation_dropout

    def _residual(self, norm: nn.LayerNorm, x: Tensor, branch) -> Tensor:
        """``x`` plus the branch of it, normalised before the branch or after the sum."""
        y = branch(norm(x) if self.normalize_before else x)
        x = x + F.dropout(y, self.dropout, self.training)
        return x if self.normalize_before else norm(x)

    def _ffn(self, x: Tensor) -> Tensor:
        return self.fc2(F.dropout(F.relu(self.fc1(x)), self.activation_dropout, self.training))


class EncoderLayer(_Layer):
    """Long-short range attention and feed-forward block."""

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C]."""
        x = self._residual(self.self_attn_layer_norm, x, lambda x: self.self_attn(x, padding_mask))
        return self._residual(self.final_layer_norm, x, self._ffn)


class DecoderLayer(_Layer):
    """Long-short range attention, attention to the source, feed-forward block."""

    def __init__(self, config: MultibranchConfig, side: str, kernel_size: int) -> None:
        super().__init__(config, side, kernel_size)
        width = config.encoder_embed_dim
        self.encoder_attn = MultiheadAttention(
            width, config.decoder_attention_heads, config.attention_dropout
        )
        self.encoder_attn_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, source: EncoderOut) -> Tensor:
        """All positions at once, [B, T, C] -> [B, T, C]."""

        def attend(x: Tensor) -> Tensor:
            return self.encoder_attn(x, source.x, source.padding_mask)

        x = self._residual(self.self_attn_layer_norm, x, self.self_attn)
        x = self._residual(self.encoder_attn_layer_norm, x, attend)
        return self._residual(self.final_layer_norm, x, self._ffn)

    def step(
        self, x: Tensor, hidden: Tensor, key: Tensor, value: Tensor, state: State, position: Tensor
    ) -> tuple[Tensor, State]:
        """One position of every hypothesis, [B, beam, C] -> [B, beam, C].

        Args:
            x: input [B, beam, C].
            hidden: the source's padding mask [B, 1, 1, S].
            key: keys of the source [B, heads, S, C / heads]; ``value`` likewise.
            state: of the B * beam hypotheses, see :class:`MultiBranch`.
            position: [] int64.
        """
        new_state: State = {}

        def mix(x: Tensor) -> Tensor:
            y, values = self.self_attn.step(x.flatten(0, 1)[:, None], state, position)
            new_state.update(values)
            return y.view(x.shape)

        def attend(x: Tensor) -> Tensor:
            return self.encoder_attn.attend(x, key, value, hidden)

        x = self._residual(self.self_attn_layer_norm, x, mix)
        x = self._residual(self.encoder_attn_layer_norm, x, attend)
        return self._residual(self.final_layer_norm, x, self._ffn), new_state


class _Stack(nn.Module):
    """Embedding, positions, layers and the final norm of either side."""

    def __init__(
        self,
        config: MultibranchConfig,
        side: str,
        layer: type[_Layer],
        embed_tokens: nn.Embedding,
        max_positions: int,
    ) -> None:
        super().__init__()
        width = config.encoder_embed_dim
        self.register_buffer("version", torch.tensor([3.0]))
        self.embed_tokens = embed_tokens
        self.embed_scale = width**0.5
        self.embed_positions = positions(
            max_positions, width, getattr(config, f"{side}_learned_pos")
        )
        kernel_sizes = getattr(config, f"{side}_kernel_size_list")
        self.layers = nn.ModuleList(layer(config, side, size) for size in kernel_sizes)
        self.layer_norm = None
        if getattr(config, f"{side}_normalize_before"):
            self.layer_norm = nn.LayerNorm(width)
        self.dropout, self.max_positions = config.dropout, max_positions

    def embed(self, tokens: Tensor) -> Tensor:
        """Scaled embeddings with positions, [B, T] -> [B, T, C]."""
        if tokens.shape[1] > self.max_positions:
            raise ValueError(
                f"{tokens.shape[1]} tokens are more than the {self.max_positions} positions of the model"
            )
        x = self.embed_scale * self.embed_tokens(tokens) + self.embed_positions(tokens)
        return F.dropout(x, self.dropout, self.training)

    def normalize(self, x: Tensor) -> Tensor:
        """The final norm, where there is one."""
        return x if self.layer_norm is None else self.layer_norm(x)


class Encoder(_Stack):
    """Source tokens to hidden states."""

    def __init__(self, config: MultibranchConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__(config, "encoder", EncoderLayer, embed_tokens, config.max_source_positions)

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
    """Target tokens so far, and the source, to the logits of the next."""

    def __init__(self, config: MultibranchConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__(config, "decoder", DecoderLayer, embed_tokens, config.max_target_positions)
        if config.share_all_embeddings or config.share_decoder_input_output_embed:
            self.embed_out = None
        else:
            shape = (config.tgt_vocab, config.encoder_embed_dim)
            self.embed_out = nn.Parameter(torch.empty(shape))
            nn.init.normal_(self.embed_out, std=config.encoder_embed_dim**-0.5)
        self.output_projection = _OutputProjection(
            embed_tokens.weight if self.embed_out is None else self.embed_out
        )

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
        return {
            f"layers.{index}.{name}": shape
            for index, layer in enumerate(self.layers)
            for name, shape in layer.self_attn.state_shapes(rows, length).items()
        }

    def step(
        self, tokens: Tensor, parents: Tensor | None, position: Tensor, source: Source, state: State
    ) -> tuple[Tensor, State]:
        """Take one step of every hypothesis.

        Args:
            tokens: last token of each [B, beam], int64.
            parents: beam that each continues [B, beam], int64, 0..beam-1; None where each continues
                itself, and then keys and values of the state are written where they are.
            position: how many steps came before [], int64.
            source: from :meth:`project_source`.
            state: what :meth:`state_shapes` lists for B * beam rows, zeros at first.

        Returns:
            Log-probabilities of the next token [B, beam, V], float32, and the new state.
        """
        hidden = source.padding_mask[:, None, None]
        # positions are counted from PAD + 1
        at = self.embed_positions.vectors.index_select(0, position.view(1) + PAD + 1)
        x = self.embed_scale * self.embed_tokens(tokens) + at
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
    """The state of the hypotheses' parents [B, beam], in their place."""
    batch, beam = parents.shape
    first = torch.arange(batch, device=parents.device)[:, None] * beam
    rows = (first + parents).flatten()
    return {name: value.index_select(0, rows) for name, value in state.items()}


class TransformerMultibranch(nn.Module):
    """The whole network. Specials: ``<s>`` 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3.

    It translates one token at a time; see :mod:`train_model.models.incremental` and ``beam_search``.
    """

    encoder_type: type[Encoder] = Encoder
    decoder_type: type[Decoder] = Decoder

    def __init__(self, config: MultibranchConfig) -> None:
        super().__init__()
        self.config = config
        src_embed = embedding(config.src_vocab, config.encoder_embed_dim)
        tgt_embed = src_embed
        if not config.share_all_embeddings:
            tgt_embed = embedding(config.tgt_vocab, config.encoder_embed_dim)
        self.encoder = self.encoder_type(config, src_embed)
        self.decoder = self.decoder_type(config, tgt_embed)
        replace_linears(self, config.int8_layers, QuantizedLinear)

    def encode(self, src_tokens: Tensor) -> EncoderOut:
        """Encode [B, S] int64 tokens."""
        return self.encoder(src_tokens)

    def decode(self, prev_output_tokens: Tensor, source: EncoderOut) -> Tensor:
        """Logits [B, T, V] with the reference [B, T], shifted right behind eos, as the past."""
        return self.decoder(prev_output_tokens, source)


_TAPS = re.compile(r"\.branches\.\d+\.weight$")


def upgrade(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the middle axis of a lightweight convolution's taps, which mit-han-lab's CUDA module leaves out."""
    return {
        name: value[:, None] if _TAPS.search(name) and value.dim() == 2 else value
        for name, value in weights.items()
    }
