"""``lightconv``: fairseq's LightConv and DynamicConv translators (Wu et al. 2019, arXiv 1901.10430)."""

import dataclasses
from collections.abc import Sequence

from torch import Tensor, nn

from train_model.models import autoregressive
from train_model.models.autoregressive import State
from train_model.models.config import AutoregressiveConfig, ConvBlockConfig
from train_model.models.conv_block import ConvBlock


@dataclasses.dataclass(frozen=True)
class LightConvConfig(ConvBlockConfig, AutoregressiveConfig):
    """Options of ``lightconv``."""

    architecture = "lightconv"

    _: dataclasses.KW_ONLY
    encoder_layers: int = 7
    decoder_kernel_size_list: Sequence[int] = (3, 7, 15, 31, 31, 31)


class _Mixing(ConvBlock):
    """A convolution block as the mixing block of a layer."""

    def build_mixing(self, config: LightConvConfig, side: str, index: int) -> None:
        self.build_conv(config, side, getattr(config, f"{side}_kernel_size_list")[index])

    def mix(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        x = self.project_in(x)
        if padding_mask is not None:
            x = x.masked_fill(padding_mask[:, :, None], 0)
        return self.linear2(self.conv(x))

    def state_shapes(self, rows: int, length: int) -> dict[str, tuple[int, ...]]:
        return self.conv.state_shapes(rows, length)

    def mix_step(self, x: Tensor, state: State, position: Tensor) -> tuple[Tensor, State]:
        y, values = self.conv.step(self.project_in(x), list(state.values()), position)
        return self.linear2(y), dict(zip(state, values, strict=True))


class EncoderLayer(_Mixing, autoregressive.EncoderLayer):
    """Convolution block and feed-forward block."""

    def build_mixing(self, config: LightConvConfig, side: str, index: int) -> None:
        """See :meth:`autoregressive.Layer.build_mixing`."""
        super().build_mixing(config, side, index)
        self.layer_norms = nn.ModuleList(nn.LayerNorm(config.width(side)) for _ in range(2))

    @property
    def mixing_norm(self) -> nn.LayerNorm:
        """The norm of the convolution block."""
        return self.layer_norms[0]

    @property
    def ffn_norm(self) -> nn.LayerNorm:
        """The norm of the feed-forward block."""
        return self.layer_norms[1]


class DecoderLayer(_Mixing, autoregressive.DecoderLayer):
    """Causal convolution block, attention to the source, feed-forward block."""

    def build_mixing(self, config: LightConvConfig, side: str, index: int) -> None:
        """See :meth:`autoregressive.Layer.build_mixing`."""
        super().build_mixing(config, side, index)
        self.conv_layer_norm = nn.LayerNorm(config.width(side))
        self.final_layer_norm = nn.LayerNorm(config.width(side))

    @property
    def mixing_norm(self) -> nn.LayerNorm:
        """The norm of the convolution block."""
        return self.conv_layer_norm


class Encoder(autoregressive.Encoder):
    """Source tokens to hidden states."""

    layer_class = EncoderLayer


class Decoder(autoregressive.Decoder):
    """Target tokens so far, and the source, to the logits of the next token."""

    layer_class = DecoderLayer


class LightConv(autoregressive.AutoregressiveTranslator):
    """The whole network."""

    encoder_type = Encoder
    decoder_type = Decoder
