"""Fake quantisation: rounds a tensor to INT8's values, in floating point, with a gradient for training.

``y = clamp(round(x / scale), -128, 127) * scale`` with ``scale = amax / 127``, ties to even. ONNX defines the
same for QuantizeLinear with an int8 zero point of 0, followed by DequantizeLinear. The gradient passes where
``|x| <= amax`` and is zero elsewhere (straight-through estimator with clipping).
"""

import torch
from torch import Tensor

LARGEST = 127  # the symmetric range; only values below -amax become -128
LEAST_SCALE = (
    2.0**-14
)  # the smallest normal number of FP16, in which INT8 engines keep their scales


@torch.library.custom_op("lite::fake_quantize", mutates_args=())
def fake_quantize(x: Tensor, amax: Tensor, axis: int) -> Tensor:
    """Round ``x`` to the 256 values that INT8 has for it.

    Args:
        x: any shape, floating.
        amax: the value that 127 represents, positive, of ``x``'s dtype: [] for the whole tensor, or
            [N], one for each of the N entries of an axis.
        axis: that axis; -1 where ``amax`` is [].

    Returns:
        The shape and dtype of ``x``.

    Raises:
        ValueError: shapes or dtypes do not fit each other.
    """
    _check(x, amax, axis)
    scale = _along(x, amax / LARGEST, axis)
    return (x / scale).round_().clamp_(-LARGEST - 1, LARGEST).mul_(scale)


@fake_quantize.register_fake
def _(x: Tensor, amax: Tensor, axis: int) -> Tensor:
    _check(x, amax, axis)
    return x.new_empty(x.shape)


def _setup_context(ctx, inputs, output) -> None:
    x, amax, ctx.axis = inputs
    ctx.save_for_backward(x, amax)


def _backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
    x, amax = ctx.saved_tensors
    return grad.masked_fill(x.abs() > _along(x, amax, ctx.axis), 0), None, None


fake_quantize.register_autograd(_backward, setup_context=_setup_context)


def _along(x: Tensor, values: Tensor, axis: int) -> Tensor:
    """Reshape ``values`` to broadcast against ``x`` along the axis."""
    if values.dim() == 0:
        return values
    shape = [1] * x.dim()
    shape[axis] = -1
    return values.view(shape)


def _check(x: Tensor, amax: Tensor, axis: int) -> None:
    if x.dtype != amax.dtype or not x.is_floating_point():
        raise ValueError(f"fake_quantize: one floating dtype expected; got {x.dtype}, {amax.dtype}")
    if amax.dim() == 0 and axis == -1:
        return
    if amax.dim() != 1 or not 0 <= axis < x.dim() or x.shape[axis] != len(amax):
        raise ValueError(
            f"fake_quantize: amax {tuple(amax.shape)} does not fit axis {axis} of x {tuple(x.shape)}"
        )
