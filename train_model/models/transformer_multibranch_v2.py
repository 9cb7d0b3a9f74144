"""``transformer_multibranch_v2``: the Lite Transformer, an autoregressive translator.

A Transformer with long-short range attention in place of self-attention, and with an FFN as narrow as its
embedding. The computation and the parameter names are those of mit-han-lab/lite-transformer,
``fairseq/models/transformer_multibranch_v2.py``.
"""

from torch import Tensor, nn

from train_model.models import autoregressive
from train_model.models.autoregressive import State
from train_model.models.multibranch import MultiBranch
from train_model.models.multibranch_config import MultibranchConfig


class _Mixing:
    """Long-short range attention as the mixing block of a layer."""

    def build_mixing(self, config: MultibranchConfig, side: str, index: int) -> None:
        width = config.encoder_embed_dim
        self.self_attn = MultiBranch(
            config.branches(side),
            getattr(config, f"{side}_kernel_size_list")[index],
            causal=side == "decoder",
            mask_conv=config.padding_policy == "masked",
            glu=getattr(config, f"{side}_glu"),
            attention_dropout=config.attention_dropout,
            weight_softmax=config.weight_softmax,
            weight_dropout=config.weight_dropout,
            with_linear=config.conv_linear,
        )
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.final_layer_norm = nn.LayerNorm(width)

    def mix(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        return self.self_attn(x, padding_mask)

    def state_shapes(self, rows: int, length: int) -> dict[str, tuple[int, ...]]:
        return self.self_attn.state_shapes(rows, length)

    def mix_step(self, x: Tensor, state: State, position: Tensor) -> tuple[Tensor, State]:
        return self.self_attn.step(x, state, position)


class EncoderLayer(_Mixing, autoregressive.EncoderLayer):
    """Long-short range attention and feed-forward block."""


class DecoderLayer(_Mixing, autoregressive.DecoderLayer):
    """Long-short range attention, attention to the source, feed-forward block."""


class Encoder(autoregressive.Encoder):
    """Source tokens to hidden states."""

    layer_class = EncoderLayer


class Decoder(autoregressive.Decoder):
    """Target tokens so far, and the source, to the logits of the next token."""

    layer_class = DecoderLayer


class TransformerMultibranch(autoregressive.AutoregressiveTranslator):
    """The whole network."""

    encoder_type: type[Encoder] = Encoder
    decoder_type: type[Decoder] = Decoder
