"""Dynamic convolution: a depthwise convolution with different taps at every position.

``y[b, c, t] = sum_k weight[b, h(c), k, t] * x[b, c, t + k - padding_l]`` with ``h(c) = c // (C / H)``,
zero outside the sentence (Wu et al. 2019, arXiv 1901.10430; fairseq's ``DynamicConv`` and its
``dynamicconv_layer`` CUDA module). ``padding_l`` is ``(K - 1) // 2`` for a centred and ``K - 1`` for a
causal convolution.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from train_model.ops.cuda_library import warn_slow_on_cuda

ALIGNED = 8  # entries: alignment of a matrix and its rows for tensor cores


@torch.library.custom_op("lite::dynamic_conv", mutates_args=())
def dynamic_conv(x: Tensor, weight: Tensor, padding_l: int) -> Tensor:
    """Convolve ``x`` with the taps of every position.

    Args:
        x: input [B, C, T], floating.
        weight: taps [B, H, K, T] of ``x``'s dtype, already normalised; C is a multiple of H.
        padding_l: zeros before the sentence, 0 to K - 1; K - 1 - padding_l zeros come after it.

    Returns:
        [B, C, T] of ``x``'s dtype.

    Raises:
        ValueError: shapes, dtypes, devices or ``padding_l`` do not fit each other.
    """
    _check(x, weight, padding_l)
    if x.is_cuda:
        warn_slow_on_cuda("dynamic_conv")
    length, heads, kernel_size = x.shape[2], weight.shape[1], weight.shape[2]
    windows = F.pad(x, (padding_l, kernel_size - 1 - padding_l)).unflatten(1, (heads, -1))
    y = torch.zeros_like(windows[..., :length])
    for k in range(kernel_size):
        y.addcmul_(weight[:, :, None, k], windows[..., k : k + length])
    return y.flatten(1, 2)


@torch.library.custom_op("lite::dynamic_conv_backward", mutates_args=())
def dynamic_conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, padding_l: int
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`dynamic_conv` for ``x`` and ``weight``, given that of its output [B, C, T]."""
    _check(x, weight, padding_l)
    if x.is_cuda:
        warn_slow_on_cuda("dynamic_conv_backward")
    length, heads, kernel_size = x.shape[2], weight.shape[1], weight.shape[2]
    windows = F.pad(x, (padding_l, kernel_size - 1 - padding_l)).unflatten(1, (heads, -1))
    grad = grad.unflatten(1, (heads, -1))
    grad_windows = torch.zeros_like(windows)
    grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    for k in range(kernel_size):
        grad_windows[..., k : k + length].addcmul_(weight[:, :, None, k], grad)
        grad_weight[:, :, k] = (grad * windows[..., k : k + length]).sum(2)
    grad_x = grad_windows[..., padding_l : padding_l + length].flatten(1, 2)
    return grad_x.contiguous(), grad_weight


@dynamic_conv.register_fake
def _(x: Tensor, weight: Tensor, padding_l: int) -> Tensor:
    _check(x, weight, padding_l)
    return x.new_empty(x.shape)


@dynamic_conv_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, padding_l: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _setup_context(ctx, inputs, output) -> None:
    x, weight, ctx.padding_l = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *dynamic_conv_backward(grad.contiguous(), *ctx.saved_tensors, ctx.padding_l), None


dynamic_conv.register_autograd(_backward, setup_context=_setup_context)


def banded_conv(x: Tensor, taps: Tensor, padding_l: int) -> Tensor:
    """The same convolution as a product with a banded matrix, for training on short sentences.

    A GPU multiplies small matrices faster than it convolves, forward and backward, and the product needs no
    transposes. Memory and work grow with T * T for every head.

    Args:
        x: input [B, T, C].
        taps: [B, T, H, K], already normalised.
        padding_l: as in :func:`dynamic_conv`.

    Returns:
        [B, T, C].
    """
    length, (heads, kernel_size) = x.shape[1], taps.shape[2:]
    # zeros on both sides of each row of taps; then rows of one entry less, so that row t moves t to the right
    before = -padding_l % ALIGNED
    after = length + -(before + kernel_size + length - 1) % ALIGNED
    skewed = F.pad(taps.transpose(1, 2), (before, after)).flatten(2)
    width = before + kernel_size + after - 1
    skewed = skewed[..., : length * width].unflatten(2, (length, width))
    band = skewed[..., before + padding_l : before + padding_l + length]
    return (band @ x.unflatten(2, (heads, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)


def _check(x: Tensor, weight: Tensor, padding_l: int) -> None:
    if x.dim() != 3 or weight.dim() != 4:
        raise ValueError(
            "dynamic_conv: x must be [B, C, T] and weight [B, H, K, T]; "
            f"got {x.dim()} and {weight.dim()} dimensions"
        )
    if x.dtype != weight.dtype or not x.is_floating_point():
        raise ValueError(
            f"dynamic_conv: one floating dtype expected; got {x.dtype}, {weight.dtype}"
        )
    if x.device != weight.device:
        raise ValueError(f"dynamic_conv: one device expected; got {x.device}, {weight.device}")
    heads, kernel_size = weight.shape[1], weight.shape[2]
    if heads == 0 or kernel_size == 0 or x.shape[1] % heads:
        raise ValueError(
            f"dynamic_conv: {x.shape[1]} channels do not divide into {heads} heads, or K={kernel_size} is 0"
        )
    if x.shape[0] != weight.shape[0] or x.shape[2] != weight.shape[3]:
        raise ValueError(
            f"dynamic_conv: batch and length differ: x {tuple(x.shape)}, weight {tuple(weight.shape)}"
        )
    if not 0 <= padding_l < kernel_size:
        raise ValueError(f"dynamic_conv: padding_l={padding_l} is not within 0..{kernel_size - 1}")
