"""The normaliser of a linear-chain CRF: the logarithm of the sum over all paths, with its gradients.

It is the training counterpart of :func:`train_model.ops.crf_decode.crf_decode`: fairseq's
``DynamicCRF._compute_normalizer`` (Sun et al. 2019, arXiv 1910.11555).
"""

import torch
from torch import Tensor

from train_model.ops.cuda_library import warn_slow_on_cuda


@torch.library.custom_op("lite::crf_normaliser", mutates_args=())
def crf_normaliser(emissions: Tensor, transitions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the exponentials of the scores of all paths through the K candidates of every position.

    A position outside the mask keeps the state. The first position always counts. Sums are FP32 for
    16-bit inputs.

    Args:
        emissions: finite scores of the candidates [B, T, K], floating.
        transitions: score of going from candidate i at t to j at t + 1 [B, T - 1, K, K], of the same dtype.
        mask: 1 at real positions, 0 at others [B, T], int32.

    Returns:
        The logarithm of the sum [B], and that of the sums over the paths which end in each candidate
        [B, T, K]; both FP32, or FP64 for FP64 inputs. Only the first one has a gradient.

    Raises:
        ValueError: shapes, dtypes or devices do not fit each other.
    """
    _check(emissions, transitions, mask)
    if emissions.is_cuda:
        warn_slow_on_cuda("crf_normaliser")
    return path_sums(emissions, transitions, mask)


def path_sums(emissions: Tensor, transitions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Do the work of :func:`crf_normaliser` in PyTorch's operators, which have gradients, without checks."""
    emissions, transitions = full_precision(emissions), full_precision(transitions)
    prefixes = [emissions[:, 0]]
    for t in range(1, emissions.shape[1]):
        before = prefixes[-1]
        after = (before[:, :, None] + transitions[:, t - 1]).logsumexp(1) + emissions[:, t]
        prefixes.append(torch.where(mask[:, t, None] != 0, after, before))
    return prefixes[-1].logsumexp(1), torch.stack(prefixes, 1)


@torch.library.custom_op("lite::crf_normaliser_backward", mutates_args=())
def crf_normaliser_backward(
    grad: Tensor,
    emissions: Tensor,
    transitions: Tensor,
    mask: Tensor,
    total: Tensor,
    prefixes: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients for emissions and transitions, given that of the first result [B] and both results."""
    _check(emissions, transitions, mask)
    if emissions.is_cuda:
        warn_slow_on_cuda("crf_normaliser_backward")
    scores, steps = full_precision(emissions), full_precision(transitions)
    grad_emissions, grad_transitions = torch.zeros_like(scores), torch.zeros_like(steps)
    ends = grad[:, None] * (prefixes[:, -1] - total[:, None]).exp()
    for t in range(scores.shape[1] - 1, 0, -1):
        real = mask[:, t, None] != 0
        entering = (prefixes[:, t] - scores[:, t])[:, None]
        share = (prefixes[:, t - 1, :, None] + steps[:, t - 1] - entering).exp()
        edges = torch.where(real[:, :, None], ends[:, None] * share, 0)
        grad_emissions[:, t] = torch.where(real, ends, 0)
        grad_transitions[:, t - 1] = edges
        ends = torch.where(real, edges.sum(2), ends)
    grad_emissions[:, 0] = ends
    return grad_emissions.to(emissions.dtype), grad_transitions.to(transitions.dtype)


@crf_normaliser.register_fake
def _(emissions: Tensor, transitions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    _check(emissions, transitions, mask)
    dtype = full_precision(emissions).dtype
    return emissions.new_empty(emissions.shape[0], dtype=dtype), emissions.new_empty(
        emissions.shape, dtype=dtype
    )


@crf_normaliser_backward.register_fake
def _(grad: Tensor, emissions: Tensor, transitions: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return emissions.new_empty(emissions.shape), transitions.new_empty(transitions.shape)


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad: Tensor, _) -> tuple[Tensor, Tensor, None]:
    return *crf_normaliser_backward(grad.contiguous(), *ctx.saved_tensors), None


crf_normaliser.register_autograd(_backward, setup_context=_setup_context)


def full_precision(scores: Tensor) -> Tensor:
    """Convert half precision to FP32: a sum over a sentence would accumulate rounding errors."""
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def _check(emissions: Tensor, transitions: Tensor, mask: Tensor) -> None:
    if emissions.dim() != 3 or 0 in emissions.shape[1:]:
        raise ValueError(
            f"crf_normaliser: emissions must be [B, T, K] with T and K above 0, not {tuple(emissions.shape)}"
        )
    batch, length, beam = emissions.shape
    if transitions.shape != (batch, length - 1, beam, beam) or mask.shape != (batch, length):
        raise ValueError(
            f"crf_normaliser: shapes differ: emissions {tuple(emissions.shape)}, "
            f"transitions {tuple(transitions.shape)}, mask {tuple(mask.shape)}"
        )
    if not emissions.is_floating_point() or emissions.dtype != transitions.dtype:
        raise ValueError(
            f"crf_normaliser: one floating dtype expected; got {emissions.dtype}, {transitions.dtype}"
        )
    if mask.dtype != torch.int32:
        raise ValueError(f"crf_normaliser: mask must be int32, not {mask.dtype}")
