"""All layers of one side in one kernel, where it can run: see ``trt_code/kernels/conv_stack.h``."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from trt_code.cuda_graph.packing import LayerWeights, pack

lite = torch.ops.lite


@dataclasses.dataclass(frozen=True)
class StackLayer:
    """One layer, with its biases and norms in the order of use, all FP32."""

    weights: LayerWeights
    constants: Sequence[Tensor]
    kernel_size: int
    padding_l: int


class ConvStack:
    """Layers of one size in one precision.

    Args:
        layers: their weights.
        heads: of the convolutions and of the attention.
        eps: of every LayerNorm.
        mask_conv: whether padding counts as zero in the convolution.
    """

    def __init__(
        self, layers: Sequence[StackLayer], heads: int, eps: float, mask_conv: bool
    ) -> None:
        self._constants = torch.cat([x.float() for layer in layers for x in layer.constants])
        first = layers[0].weights
        self._heads, self._ffn = heads, len(first.fc1)
        self._shape = [x.kernel_size for x in layers], [x.padding_l for x in layers]
        self._eps, self._mask_conv = eps, mask_conv
        self._weights = pack([layer.weights for layer in layers], heads)

    def fits(self, x: Tensor, source: Tensor | None = None) -> bool:
        """Whether the kernel can run [B, T, C] on this GPU, and is the faster way."""
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
