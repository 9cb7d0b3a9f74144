"""Runs all layers of the encoder or decoder in one kernel: see ``trt_code/kernels/conv_stack.h``."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trt_code.cuda_graph.packing import LayerWeights, pack

lite = torch.ops.lite


@dataclasses.dataclass(frozen=True)
class StackLayer:
    """One layer: its matrices, and its biases and norms by the kernel's names for them."""

    weights: LayerWeights
    constants: Mapping[str, Tensor]
    kernel_size: int
    padding_l: int


class ConvStack:
    """Layers of one size in one precision.

    Args:
        layers: their weights.
        heads: the number of heads of the convolutions and of the attention.
        eps: the epsilon of every LayerNorm.
        mask_conv: whether padding counts as zero in the convolution.

    Raises:
        ValueError: the constants of a layer, or the order of the packed matrices, differ from the kernel's.
    """

    def __init__(
        self, layers: Sequence[StackLayer], heads: int, eps: float, mask_conv: bool
    ) -> None:
        self._heads, self._ffn = heads, len(layers[0].weights.fc1)
        self._constants = torch.cat([x for layer in layers for x in self._in_order(layer)])
        self._shape = [x.kernel_size for x in layers], [x.padding_l for x in layers]
        self._eps, self._mask_conv = eps, mask_conv
        self._weights = pack([layer.weights for layer in layers], heads)

    def _in_order(self, layer: StackLayer) -> list[Tensor]:
        """The layer's constants in the order in which the kernel reads them."""
        matrices, names, lengths = lite.conv_stack_order(
            self._heads, self._ffn, layer.weights.query is not None
        )
        if layer.weights.order != matrices:
            raise ValueError(f"packed: {layer.weights.order}, read by the kernel: {matrices}")
        given = {name: len(x) for name, x in layer.constants.items()}
        if given != dict(zip(names, lengths, strict=True)):
            raise ValueError(f"constants {given}, the kernel reads {names} of {lengths} numbers")
        return [layer.constants[name].float() for name in names]

    def fits(self, x: Tensor, source: Tensor | None = None) -> bool:
        """Whether the kernel can run [B, T, C] on this GPU and is faster than single layers."""
        length, stride = (0, 0) if source is None else source.shape[1:]
        return lite.conv_stack_fits(x, self._heads, self._ffn, *self._shape, length, stride)

    def __call__(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        keys_values: Tensor | None = None,
        source_mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Run all layers on ``x`` [B, T, C].

        Args:
            mask: [B, T] int32, 0 at padding; None where there is none.
            keys_values: [B, S, 2 L C] of the L layers, for the decoder.
            source_mask: [B, S] int32.
            positions: [T, C], added after every layer but the last.
        """
        return lite.conv_stack(
            x,
            self._weights,
            self._constants,
            mask,
            keys_values,
            source_mask,
            positions,
            self._heads,
            self._ffn,
            *self._shape,
            self._mask_conv,
            self._eps,
        )
