"""Linear, gate, convolution, linear: fairseq's block in place of self-attention (Wu et al. 2019)."""

from torch import Tensor, nn
from torch.nn import functional as F

from train_model.models.chains import gate
from train_model.models.config import ConvBlockConfig
from train_model.models.layers import convolution, linear


class ConvBlock(nn.Module):
    """A base of layers; its modules belong to the layer itself, as in fairseq's checkpoints."""

    def build_conv(self, config: ConvBlockConfig, side: str, kernel_size: int) -> None:
        """Make ``linear1``, ``conv`` and ``linear2``; a decoder's convolution is causal."""
        width, conv_dim = config.width(side), getattr(config, f"{side}_conv_dim")
        self.glu = getattr(config, f"{side}_glu")
        self.input_dropout = config.input_dropout
        kind = getattr(config, f"{side}_conv_type")
        self.linear1 = linear(width, conv_dim * (1 + self.glu))
        self.conv = convolution(
            kind,
            conv_dim,
            kernel_size,
            # fairseq gives an even kernel its extra tap on the right
            kernel_size - 1 if side == "decoder" else (kernel_size - 1) // 2,
            getattr(config, f"{side}_attention_heads"),
            weight_softmax=config.weight_softmax,
            weight_dropout=config.weight_dropout,
            with_linear=config.conv_linear,
            # the original passes the gate to dynamic convolutions only
            glu=self.glu and kind == "dynamic",
        )
        self.linear2 = linear(conv_dim, width)

    def project_in(self, x: Tensor) -> Tensor:
        """Apply the first linear layer and its gate, if there is one."""
        x = self.linear1(F.dropout(x, self.input_dropout, self.training))
        return gate(x) if self.glu else x
