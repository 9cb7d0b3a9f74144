"""Long-short range attention: splits the channels, and mixes each slice over time by another branch.

One branch is self-attention (any distance), the other a dynamic or lightweight convolution (short distances).
Their outputs are concatenated, without a projection after them (Wu et al. 2020, arXiv 2004.11886).
"""

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn

from train_model.models.layers import MultiheadAttention, convolution, numbered_state_shapes

BranchKind = Literal["attn", "dynamic", "lightweight"]


@dataclasses.dataclass(frozen=True)
class Branch:
    """One branch of ``--encoder-branch-type``.

    Attention ignores ``kernel_size``; None takes the layer's from the list of kernel sizes.
    """

    kind: BranchKind
    channels: int
    heads: int
    kernel_size: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Branch":
        """Read ``kind:kernel:channels:heads``, e.g. ``attn:1:248:4`` or ``dynamic:default:248:4``.

        Raises:
            ValueError: the text has another form.
        """
        kind, *numbers = text.split(":")
        numbers = [None if number == "default" else number for number in numbers]
        kinds = BranchKind.__args__
        if kind not in kinds:
            raise ValueError(f"branch {text!r}: the kind is one of {', '.join(kinds)}")
        try:
            kernel_size, channels, heads = (n if n is None else int(n) for n in numbers)
            size = 1 if kernel_size is None else kernel_size
            fits = min(channels, heads, size) > 0 and channels % heads == 0
        except (ValueError, TypeError):
            fits = False
        if not fits:
            raise ValueError(
                f"branch {text!r} is not kind:kernel:channels:heads with channels a multiple of heads"
            )
        return cls(kind, channels, heads, None if kind == "attn" else kernel_size)

    def __str__(self) -> str:
        kernel = 1 if self.kind == "attn" else self.kernel_size or "default"
        return f"{self.kind}:{kernel}:{self.channels}:{self.heads}"


class MultiBranch(nn.Module):
    """The branches of one layer.

    For one step at a time every branch keeps a state, batch first: attention the keys and values
    [N, heads, L, C / heads] of up to L positions, a convolution its last inputs [N, K - 1, C].
    """

    def __init__(
        self,
        branches: tuple[Branch, ...],
        kernel_size: int,
        *,
        causal: bool,
        mask_conv: bool,
        glu: bool,
        attention_dropout: float,
        **conv_options,
    ) -> None:
        """Build the branches.

        Args:
            kernel_size: kernel size of convolutions that do not set one.
            causal: a position sees itself and earlier positions; otherwise all.
            mask_conv: zero the padding right before the convolution and not only before the branch.
            glu: gate the inner projection of dynamic convolutions (lightweight ones never have it).
            attention_dropout: dropout of attention weights.
            conv_options: options of every convolution (``weight_softmax``, ``weight_dropout``,
                ``with_linear``).
        """
        super().__init__()
        self.causal, self.mask_conv = causal, mask_conv
        self.widths = [branch.channels for branch in branches]

        def build(branch: Branch) -> nn.Module:
            if branch.kind == "attn":
                return MultiheadAttention(branch.channels, branch.heads, attention_dropout)
            size = branch.kernel_size or kernel_size
            # the original gives an even kernel its extra tap on the right
            padding_l = size - 1 if causal else (size - 1) // 2
            gate = glu and branch.kind == "dynamic"
            sizes = (branch.channels, size, padding_l, branch.heads)
            return convolution(branch.kind, *sizes, glu=gate, **conv_options)

        self.branches = nn.ModuleList(map(build, branches))

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """[B, T, C] -> [B, T, C]; the mask [B, T], True at padding, hides positions."""
        outputs = []
        for branch, part in zip(self.branches, x.split(self.widths, -1), strict=True):
            if isinstance(branch, MultiheadAttention):
                outputs.append(branch.attend_to_itself(part, padding_mask, self.causal))
                continue
            if padding_mask is not None:
                part = part.masked_fill(padding_mask[:, :, None], 0)
            outputs.append(branch(part, padding_mask if self.mask_conv else None))
        return torch.cat(outputs, -1)

    def state_shapes(self, rows: int, length: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the state of ``rows`` sequences with room for ``length`` positions, by name."""
        return numbered_state_shapes(self.branches, rows, length)

    def step(
        self, x: Tensor, state: dict[str, Tensor], position: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Take one step of every sequence.

        Args:
            x: the input at ``position`` [N, 1, C].
            state: tensors of :meth:`state_shapes`, zeros before the first step; attention's keys and
                values are written in place.
            position: the number of earlier steps [], int64; less than the state's length.

        Returns:
            The output [N, 1, C] and the new state.
        """
        outputs, new_state = [], {}
        for index, (branch, part) in enumerate(
            zip(self.branches, x.split(self.widths, -1), strict=True)
        ):
            names = [name for name in state if name.startswith(f"{index}.")]
            output, values = branch.step(part, [state[name] for name in names], position)
            outputs.append(output)
            new_state |= dict(zip(names, values, strict=True))
        return torch.cat(outputs, -1), new_state
