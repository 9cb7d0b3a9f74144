"""``transformer``: fairseq's Transformer (Vaswani et al. 2017, arXiv 1706.03762), pre- or post-norm."""

import dataclasses
import re
from typing import Any, ClassVar

from torch import Tensor, nn

from train_model.models import autoregressive
from train_model.models.autoregressive import State
from train_model.models.config import SIDES, AutoregressiveConfig, check_heads
from train_model.models.layers import MultiheadAttention


@dataclasses.dataclass(frozen=True)
class TransformerConfig(AutoregressiveConfig):
    """Options of ``transformer``."""

    architecture = "transformer"

    _: dataclasses.KW_ONLY
    encoder_attention_heads: int = 8

    own_decoder_width = True
    fixed: ClassVar[dict[str, Any]] = AutoregressiveConfig.fixed | {
        "decoder_layers_to_keep": None,
        "encoder_layers_to_keep": None,
        "scale_attn": False,
        "scale_fc": False,
        "scale_heads": False,
        "scale_resids": False,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.encoder_embed_dim, self.encoder_attention_heads, "encoder: ")


class _Mixing:
    """Self-attention as the mixing block of a layer."""

    def build_mixing(self, config: TransformerConfig, side: str, index: int) -> None:
        width, heads = config.width(side), getattr(config, f"{side}_attention_heads")
        self.self_attn = MultiheadAttention(width, heads, config.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.causal = side == "decoder"

    def mix(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        return self.self_attn.attend_to_itself(x, padding_mask, self.causal)

    def state_shapes(self, rows: int, length: int) -> dict[str, tuple[int, ...]]:
        return self.self_attn.state_shapes(rows, length)

    def mix_step(self, x: Tensor, state: State, position: Tensor) -> tuple[Tensor, State]:
        y, values = self.self_attn.step(x, [state["key"], state["value"]], position)
        return y, dict(zip(("key", "value"), values, strict=True))


class EncoderLayer(_Mixing, autoregressive.EncoderLayer):
    """Self-attention and feed-forward block."""


class DecoderLayer(_Mixing, autoregressive.DecoderLayer):
    """Self-attention, attention to the source, feed-forward block."""


class Encoder(autoregressive.Encoder):
    """Source tokens to hidden states."""

    layer_class = EncoderLayer


class Decoder(autoregressive.Decoder):
    """Target tokens so far, and the source, to the logits of the next token."""

    layer_class = DecoderLayer

    def build_projection(self, config: TransformerConfig, shared: nn.Parameter | None) -> None:
        """Make ``output_projection``, which checkpoints store even if its weight is shared."""
        width = config.width("decoder")
        self.output_projection = nn.Linear(width, config.tgt_vocab, bias=False)
        if shared is not None:
            self.output_projection.weight = shared
        else:
            nn.init.normal_(self.output_projection.weight, std=width**-0.5)


class Transformer(autoregressive.AutoregressiveTranslator):
    """The whole network."""

    encoder_type = Encoder
    decoder_type = Decoder


# fairseq's names of the norms before version 0.6
_OLD_NORMS = {
    "encoder": {"0": "self_attn_layer_norm", "1": "final_layer_norm"},
    "decoder": {
        "0": "self_attn_layer_norm",
        "1": "encoder_attn_layer_norm",
        "2": "final_layer_norm",
    },
}
_OLD_NORM = re.compile(rf"({'|'.join(SIDES)})(\.layers\.\d+\.)layer_norms\.(\d)\.")
# Copies of other weights, which fairseq 0.12 writes for PyTorch's fused encoder layer and never trains.
_FUSED_COPY = re.compile(r"encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)")


def upgrade(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of checkpoints from older versions of fairseq (by fairseq's rules)."""

    def norm(match: re.Match) -> str:
        side, layer, number = match.groups()
        return f"{side}{layer}{_OLD_NORMS[side].get(number, f'layer_norms.{number}')}."

    weights = {
        _OLD_NORM.sub(norm, name): value
        for name, value in weights.items()
        if not _FUSED_COPY.fullmatch(name)
    }
    if "decoder.output_projection.weight" not in weights:
        source = (
            "decoder.embed_out" if "decoder.embed_out" in weights else "decoder.embed_tokens.weight"
        )
        if source in weights:
            weights["decoder.output_projection.weight"] = weights[source]
            weights.pop("decoder.embed_out", None)
    return weights
