"""``--criterion r_drop_cross_entropy``: R-Drop (Liang et al. 2021, arXiv 2106.14448).

Two passes with different dropout have to agree. Each sentence goes through the network twice in one batch.
The loss is the mean of the two smoothed cross-entropies, plus a share of the symmetric divergence between the
two distributions. So a batch costs twice its tokens. Validation is that of ``label_smoothed_cross_entropy``.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq import metrics
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from torch import Tensor

from train_model.fairseq_plugin.kept_batches import convert


@dataclass
class RDropConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """The options of ``label_smoothed_cross_entropy``, and the weight of the divergence."""

    r_drop_alpha: float = field(default=5.0, metadata={"help": "weight of the divergence"})


@register_criterion("r_drop_cross_entropy", dataclass=RDropConfig)
class RDropCrossEntropy(LabelSmoothedCrossEntropyCriterion):
    """Half of R-Drop's loss: the mean of both passes in place of their sum."""

    def __init__(self, task, sentence_avg, label_smoothing, r_drop_alpha) -> None:
        super().__init__(task, sentence_avg, label_smoothing)
        self.alpha = r_drop_alpha

    def forward(self, model: torch.nn.Module, sample: dict[str, Any], reduce: bool = True):
        """Return loss, sample size and log entries; the logged losses are without the divergence."""
        if not model.training:
            return super().forward(model, sample, reduce)
        inputs = convert(sample["net_input"], Tensor, lambda part: torch.cat([part, part]))
        logits, _ = model(**inputs)
        target = sample["target"]
        loss, nll_loss, divergence = _RDrop.apply(
            logits.flatten(0, 1), target.flatten(), self.eps, self.alpha, self.padding_idx
        )
        size = target.size(0) if self.sentence_avg else sample["ntokens"]
        logging_output = {
            "loss": loss.detach() - self.alpha / 2 * divergence,
            "nll_loss": nll_loss,
            "divergence": divergence,
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": size,
        }
        return loss, size, logging_output

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the losses and the divergence, in bits per token."""
        super().reduce_metrics(logging_outputs)
        divergence = sum(log.get("divergence", 0) for log in logging_outputs)
        tokens = sum(log["ntokens"] for log in logging_outputs)
        metrics.log_scalar("divergence", divergence / tokens / math.log(2), tokens, round=3)


class _RDrop(torch.autograd.Function):
    """The loss with its gradient, which is written at once instead of through some ten full-size tensors."""

    @staticmethod
    def forward(ctx, logits, target, smoothing, alpha, padding):
        compute = _compiled() if logits.is_cuda else loss_and_gradient
        losses, nll, divergence, gradient = compute(logits, target, smoothing, alpha, padding)
        ctx.save_for_backward(gradient)
        return losses.sum(), nll.sum(), divergence.sum()

    @staticmethod
    def backward(ctx, scale, *_):
        (gradient,) = ctx.saved_tensors
        return gradient * scale.to(gradient.dtype), None, None, None, None


@functools.cache
def _compiled():
    """Return :func:`loss_and_gradient` fused into few kernels."""
    return torch.compile(loss_and_gradient, dynamic=True)


def loss_and_gradient(
    logits: Tensor, target: Tensor, smoothing: float, alpha: float, padding: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return each position's loss, negative log-likelihood and divergence, and the loss's gradient.

    Args:
        logits: scores of the first passes, then of the second ones [2 N, V].
        target: tokens [N] int64.
        smoothing: share of the label smoothing, as fairseq defines it.
        alpha: weight of the divergence.
        padding: the token that does not count.

    Returns:
        Three tensors [N] in FP32, and the gradient of the first one's sum [2 N, V] in the logits' dtype.
    """
    vocab = logits.shape[1]
    first, second = logits.float().log_softmax(-1).chunk(2)
    p, q = first.exp(), second.exp()
    real = target.ne(padding).float()[:, None]
    apart = first - second
    forth = (p * apart).sum(-1, keepdim=True)
    back = -(q * apart).sum(-1, keepdim=True)
    divergence = (forth + back) / 2 * real
    each = smoothing / (vocab - 1)
    own = 1 - smoothing - each
    chosen = target[:, None]
    nll = -(first.gather(1, chosen) + second.gather(1, chosen)) / 2 * real
    smooth = -(first.sum(-1, keepdim=True) + second.sum(-1, keepdim=True)) / 2 * real
    loss = own * nll + each * smooth + alpha / 2 * divergence
    hit = torch.arange(vocab, device=logits.device) == chosen
    wanted = torch.where(hit, own + each, each)
    total, share = own + each * vocab, alpha / 2
    one = p * (total + share * (apart - forth + 1)) - share * q - wanted
    two = q * (total - share * (apart + back - 1)) - share * p - wanted
    gradient = torch.cat([one * real / 2, two * real / 2]).to(logits.dtype)
    return loss[:, 0], nll[:, 0], divergence[:, 0], gradient
