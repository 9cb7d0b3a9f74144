"""Linear layers and norms with their weights on a GPU, in 16 bits, FP32, TF32 or FP8.

FP8 is e4m3 with one scale per tensor. A layer in FP8 reads its input multiplied by ``fp8_factor``, and
whatever wrote the input has multiplied and rounded it in the same kernel. The ranges are those of the INT8
checkpoint: the magnitude that INT8 represents by 127 becomes 448, e4m3's largest number.
"""

import dataclasses

import torch
from torch import Tensor, nn

from train_model.models.quantized import QuantizedLinear

lite = torch.ops.lite

LARGEST = torch.finfo(torch.float8_e4m3fn).max
SIZE_MULTIPLE = 16  # cuBLASLt needs multiples of this as inputs and outputs of FP8 layers


def low_precision(x: Tensor, fp8_factor: float | None) -> Tensor:
    """``x`` as a layer with this factor reads it: in FP8, or as it is if the factor is None."""
    return x if fp8_factor is None else lite.to_fp8(x, fp8_factor)


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear layer's weights in the network's dtype; TF32 is for FP32 weights."""

    weight: Tensor
    bias: Tensor | None
    tf32: bool
    result_factor: float | None = None  # the result's reader is a layer in FP8 with this factor

    fp8_factor = None  # it reads the network's dtype
    alpha = 1.0

    def __call__(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        y = lite.linear(x, self.weight, self.bias, residual, relu, self.tf32)
        return low_precision(y, self.result_factor)

    def gated(
        self, x: Tensor, mask: Tensor | None = None, fp8_factor: float | None = None
    ) -> Tensor:
        """GLU of the result, zero where ``mask`` is 0, for a reader with ``fp8_factor``."""
        y = lite.linear_glu(x, self.weight, self.bias, mask, self.tf32)
        return low_precision(y, fp8_factor)


@dataclasses.dataclass(frozen=True)
class Fp8Linear:
    """A linear layer in FP8, with a result in 16 bits, or in FP8 for a reader in FP8."""

    weight: Tensor  # [N, K] e4m3
    bias: Tensor | None  # [N] in 16 bits
    alpha: float  # scales the product
    fp8_factor: float  # by which the input has been multiplied
    dtype: torch.dtype

    def __call__(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        return lite.linear_fp8(x, self.weight, self.bias, residual, relu, self.alpha, self.dtype)

    def gated(
        self, x: Tensor, mask: Tensor | None = None, fp8_factor: float | None = None
    ) -> Tensor:
        """GLU of the result, zero where ``mask`` is 0, for a reader with ``fp8_factor``."""
        arguments = x, self.weight, self.bias, mask, self.alpha, self.dtype, fp8_factor
        return lite.linear_glu_fp8(*arguments)


AnyLinear = Linear | Fp8Linear


@dataclasses.dataclass(frozen=True)
class LayerNorm:
    """LayerNorm with scale, shift and statistics in FP32."""

    scale: Tensor
    shift: Tensor
    eps: float

    @classmethod
    def of(cls, layer: nn.LayerNorm) -> "LayerNorm":
        """Scale and shift of ``layer``."""
        return cls(layer.weight.detach().float(), layer.bias.detach().float(), layer.eps)

    def __call__(
        self, x: Tensor, after: Tensor | None, fp8_factor: float | None
    ) -> tuple[Tensor, Tensor]:
        """Normalise [B, T, C], then add ``after`` [T, C].

        Returns:
            the result, as it is and as a layer with ``fp8_factor`` reads it.
        """
        if fp8_factor is not None:
            return lite.layer_norm_fp8(x, self.scale, self.shift, self.eps, after, fp8_factor)
        if after is None:
            y = lite.layer_norm(x, None, self.scale, self.shift, self.eps)
        else:
            y = lite.layer_norm_add(x, self.scale, self.shift, self.eps, after)
        return y, y

    def of_sum(
        self,
        x: Tensor,
        linear: AnyLinear,
        residual: Tensor,
        after: Tensor | None,
        fp8_factor: float | None,
    ) -> tuple[Tensor, Tensor]:
        """Normalise ``linear(x) + residual``, then add ``after``, in one kernel if that is faster."""
        if not lite.norms_in_product(x, linear.weight, residual.dtype):
            return self(linear(x, residual=residual), after, fp8_factor)
        product = x, linear.weight, linear.bias, linear.alpha, residual
        results = lite.linear_norm(*product, self.scale, self.shift, self.eps, after, fp8_factor)
        return results[0], results[-1]


@dataclasses.dataclass(frozen=True)
class Weights:
    """Puts the weights of layers into the precision of a network."""

    dtype: torch.dtype
    tf32: bool
    fp8: bool = False

    def linear(self, layer: nn.Linear, reader: AnyLinear | None = None) -> AnyLinear:
        """The weights of ``layer``, in FP8 if it is quantised and its sizes allow it.

        Args:
            layer: a layer of the folded network.
            reader: the layer that reads its result, if nothing comes between but a ReLU.
        """
        result_factor = None if reader is None else reader.fp8_factor
        quantized = self.fp8 and isinstance(layer, QuantizedLinear)
        if quantized and all(size % SIZE_MULTIPLE == 0 for size in layer.weight.shape):
            return self._fp8_linear(layer, result_factor)
        return dataclasses.replace(self.plain_linear(layer), result_factor=result_factor)

    def plain_linear(self, layer: nn.Linear) -> Linear:
        """The weights of ``layer`` in the network's dtype."""
        bias = None if layer.bias is None else layer.bias.detach().to(self.dtype)
        return Linear(layer.weight.detach().to(self.dtype).contiguous(), bias, self.tf32)

    def _fp8_linear(self, layer: QuantizedLinear, result_factor: float | None) -> Fp8Linear:
        weight = layer.weight.detach().float()
        weight_factor = LARGEST / max(weight.abs().max().item(), torch.finfo(torch.float16).tiny)
        fp8_factor = LARGEST / layer.input_quantizer.amax.item()
        # f relu(y) = relu(f y), so a result in FP8 needs no scale of its own
        scale = 1.0 if result_factor is None else result_factor
        bias = None if layer.bias is None else (layer.bias.detach() * scale).to(self.dtype)
        return Fp8Linear(
            (weight * weight_factor).to(torch.float8_e4m3fn).contiguous(),
            bias,
            scale / (fp8_factor * weight_factor),
            fp8_factor,
            self.dtype if result_factor is None else torch.float8_e4m3fn,
        )
