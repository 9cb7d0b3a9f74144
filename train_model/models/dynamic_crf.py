"""The structured output layer: a linear-chain CRF with low-rank transitions over a beam of tokens.

fairseq's ``DynamicCRF`` (Sun et al. 2019, arXiv 1910.11555). The transition from token i to token j
scores ``E1[i] . E2[j]``; only the ``beam`` best tokens of every position are considered.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train_model.data.dictionary import PAD
from train_model.ops import crf_decode, crf_normaliser, load_cuda_library
from train_model.ops.crf_decode import viterbi
from train_model.ops.crf_normaliser import full_precision, path_sums

KERNEL_BEAM = 64
"""The largest beam of the CUDA kernels: of top_k.h, crf_normaliser.h and crf_decode.h."""


def fits_kernels(device: str, beam: int) -> bool:
    """Whether the operators ``lite`` take this beam on ``device``; PyTorch's own take any."""
    return device != "cuda" or beam <= KERNEL_BEAM


class DynamicCRF(nn.Module):
    """Log-likelihood for training and Viterbi decoding."""

    def __init__(self, vocab: int, rank: int, beam: int) -> None:
        super().__init__()
        self.E1, self.E2 = nn.Embedding(vocab, rank), nn.Embedding(vocab, rank)
        if beam < 1:
            raise ValueError(f"crf_beam_approx is {beam}; it is 1 token at least")
        self.beam = min(beam, vocab)

    def forward(self, emissions: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """Return the approximate log-likelihood [B] of ``targets``, in FP32 for FP16 and BF16 networks.

        The normaliser sums over the ``beam`` best tokens of a position, which always include the target.

        Args:
            emissions: scores of all tokens [B, T, V].
            targets: tokens [B, T].
            mask: True at real positions [B, T]; the first position always counts.
        """
        beam = self._beam_with_targets(emissions.detach(), targets)
        scores = emissions.gather(2, torch.cat([targets[:, :, None], beam], 2))
        transitions = self.E1(beam[:, :-1]) @ self.E2(beam[:, 1:]).transpose(2, 3)
        sums = crf_normaliser if self._fits(scores) else path_sums
        total, _ = sums(scores[:, :, 1:].contiguous(), transitions, mask.int())
        return self._path_score(scores[:, :, 0], targets, mask) - total

    def decode(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best path: tokens [B, T] int64, and fairseq's scores of its positions [B, T] float32."""
        scores, targets = emissions.topk(self.beam, dim=2)
        rest = (targets.int(), self.E1.weight, self.E2.weight, mask.int())
        fits = self._fits(scores)
        tokens, scores = crf_decode(scores, *rest) if fits else viterbi(scores.float(), *rest)
        return tokens.long(), scores

    def _fits(self, scores: Tensor) -> bool:
        return fits_kernels(scores.device.type, self.beam)

    def choose(self, emissions: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`decode`, with pad and score 0 where ``real`` [B, T] is False."""
        tokens, scores = self.decode(emissions, real)
        return torch.where(real, tokens, PAD), torch.where(real, scores, 0.0)

    def _path_score(self, scores: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        scores = full_precision(scores)
        transitions = full_precision(self.E1(targets[:, :-1]) * self.E2(targets[:, 1:])).sum(2)
        scores = torch.cat([scores[:, :1], scores[:, 1:] + transitions], dim=1)
        return (scores * mask.type_as(scores)).sum(1)

    def _beam_with_targets(self, emissions: Tensor, targets: Tensor) -> Tensor:
        """Return the best tokens of every position [B, T, K]; a new target takes the last place."""
        if emissions.is_cuda and self._fits(emissions) and load_cuda_library():
            best = torch.ops.lite.top_k(emissions, self.beam)[1].long()
        else:
            best = emissions.topk(self.beam, dim=2).indices
        found = best.eq(targets[:, :, None]).any(2)
        last = torch.where(found, best[:, :, -1], targets)
        return torch.cat([best[:, :, :-1], last[:, :, None]], 2)


def unsure_scores(model: nn.Module, logits: Tensor, tokens: Tensor, tolerance: float) -> Tensor:
    """Return where [B, T] a tie within ``tolerance`` leaves the score of a network's token undefined.

    The path score at t is read at the rank of the token at t + 1. A tie may change that token's rank, or the
    candidate of that rank at t. A position's score is the difference of two path scores.

    Args:
        model: a network with a :class:`DynamicCRF` named ``crf_layer``.
        logits: scores of all tokens [B, T, V].
        tokens: the best path [B, T] int64.
        tolerance: how far rounding may move a score.
    """
    best = logits.topk(min(model.crf_layer.beam + 1, logits.shape[-1])).values

    def ties(scores: Tensor) -> Tensor:
        return ((best - scores).abs() < tolerance).sum(2) > 1

    chosen = logits.gather(2, tokens[:, :, None])
    rank = (best > chosen).sum(2).clamp(max=best.shape[2] - 1)
    read = best.gather(2, F.pad(rank[:, 1:], (0, 1))[:, :, None])
    path = F.pad(ties(chosen)[:, 1:], (0, 1)) | ties(read)
    return path | F.pad(path[:, :-1], (1, 0))
