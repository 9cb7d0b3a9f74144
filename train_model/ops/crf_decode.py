"""Viterbi decoding of fairseq's ``DynamicCRF`` over the best tokens of every position.

The transition from token i to token j scores ``E1[i] . E2[j]`` (Sun et al. 2019, arXiv 1910.11555).
"""

import torch
from torch import Tensor

from train_model.ops.cuda_library import warn_slow_on_cuda


@torch.library.custom_op("lite::crf_decode", mutates_args=())
def crf_decode(
    emissions: Tensor, targets: Tensor, E1: Tensor, E2: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the best path through the K candidates of every position.

    A position outside the mask keeps the state: it passes its successor's choice of slot on and adds
    nothing. The first position always counts. Path scores are FP32 for any input dtype.

    The scores of the positions are those of fairseq's ``DynamicCRF._viterbi_decode``: the prefix score
    at t is read at the slot chosen for t + 1, and the scores are the differences of these. Their sum is
    the true score of the path, but a single one is not the textbook's term. Among equal candidates the
    lowest slot wins.

    Args:
        emissions: scores of the candidates [B, T, K], floating.
        targets: the candidates' tokens [B, T, K], int32, each in 0..V-1.
        E1: embeddings of a transition's source [V, R] of ``emissions``' dtype.
        E2: embeddings of a transition's target [V, R] of ``emissions``' dtype.
        mask: 1 at real positions, 0 at others [B, T], int32.

    Returns:
        tokens [B, T] int32 and scores [B, T] float32.

    Raises:
        ValueError: shapes, dtypes or devices do not fit each other.
    """
    _check(emissions, targets, E1, E2, mask)
    if emissions.is_cuda:
        warn_slow_on_cuda("crf_decode")
    return viterbi(emissions.float(), targets, E1, E2, mask)


def viterbi(
    emissions: Tensor, targets: Tensor, E1: Tensor, E2: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Do the work of :func:`crf_decode` in the precision of ``emissions``, without checks."""
    dtype = emissions.dtype
    # [B, T-1, K, R] x [B, T-1, R, K]: the score of going from slot i at t-1 to slot j at t
    transitions = E1[targets[:, :-1]].to(dtype) @ E2[targets[:, 1:]].to(dtype).transpose(2, 3)
    keep = torch.arange(targets.shape[2], device=targets.device).expand_as(targets[:, 0])

    score, prefix_scores, back_pointers = emissions[:, 0], [], []
    for t in range(1, targets.shape[1]):
        prefix_scores.append(score)
        best, index = (score[:, :, None] + transitions[:, t - 1]).max(dim=1)
        real = mask[:, t, None] != 0
        score = torch.where(real, best + emissions[:, t], score)
        back_pointers.append(torch.where(real, index, keep))

    best, slot = score.max(dim=1, keepdim=True)
    slots, scores = [slot], [best]
    for index, prefix in zip(reversed(back_pointers), reversed(prefix_scores), strict=True):
        slot = index.gather(1, slots[-1])
        scores.append(prefix.gather(1, slots[-1]))
        slots.append(slot)
    slots, scores = torch.stack(slots[::-1], 1), torch.cat(scores[::-1], 1)
    tokens = targets.gather(2, slots)[:, :, 0]
    return tokens, torch.diff(scores, prepend=torch.zeros_like(scores[:, :1]))


@crf_decode.register_fake
def _(
    emissions: Tensor, targets: Tensor, E1: Tensor, E2: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    _check(emissions, targets, E1, E2, mask)
    shape = emissions.shape[:2]
    return targets.new_empty(shape), emissions.new_empty(shape, dtype=torch.float32)


def _check(emissions: Tensor, targets: Tensor, E1: Tensor, E2: Tensor, mask: Tensor) -> None:
    if emissions.dim() != 3 or targets.dim() != 3 or mask.dim() != 2:
        raise ValueError("crf_decode: emissions and targets must be [B, T, K] and mask [B, T]")
    if emissions.shape != targets.shape or emissions.shape[:2] != mask.shape:
        raise ValueError(
            f"crf_decode: shapes differ: emissions {tuple(emissions.shape)}, "
            f"targets {tuple(targets.shape)}, mask {tuple(mask.shape)}"
        )
    if E1.dim() != 2 or E1.shape != E2.shape:
        raise ValueError(
            f"crf_decode: E1 and E2 must both be [V, R]; got {tuple(E1.shape)}, {tuple(E2.shape)}"
        )
    if not emissions.is_floating_point() or not emissions.dtype == E1.dtype == E2.dtype:
        raise ValueError(
            f"crf_decode: one floating dtype expected; got {emissions.dtype}, {E1.dtype}, {E2.dtype}"
        )
    if targets.dtype != torch.int32 or mask.dtype != torch.int32:
        raise ValueError(
            f"crf_decode: targets and mask must be int32; got {targets.dtype}, {mask.dtype}"
        )
    if emissions.shape[1] == 0 or emissions.shape[2] == 0:
        raise ValueError(f"crf_decode: no positions or no candidates in {tuple(emissions.shape)}")
