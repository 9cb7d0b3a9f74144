"""``--criterion glat_loss``: ``nat_loss`` with glancing (Qian et al. 2021, arXiv 2008.07905).

The network first translates the fully masked canvas. Then it sees some target tokens, more of them if that
translation was worse, and learns to fill in the rest. ``--task translation_nat`` sets the number of shown
tokens per wrong token.
"""

import math
from typing import Any

import torch
from fairseq import metrics, utils
from fairseq.criterions import register_criterion
from fairseq.criterions.nat_loss import (
    LabelSmoothedDualImitationCriterion,
    LabelSmoothedDualImitationCriterionConfig,
)
from torch import Tensor
from torch.nn import functional as F

from train_model.models.chains import chain
from train_model.ops.crf_normaliser import full_precision

_IGNORED = -100  # a target that the word loss ignores


def glance(
    canvas: Tensor, predicted: Tensor, target: Tensor, hidden: Tensor, ratio: float
) -> tuple[Tensor, Tensor]:
    """Show random target tokens: ``ratio`` times the number of wrong tokens in each sentence.

    Args:
        canvas: the decoder's input [B, T] int64.
        predicted: the network's tokens for it [B, T] int64.
        target: the reference [B, T] int64.
        hidden: True at the positions that may be shown [B, T] bool.
        ratio: shown tokens per wrong token; 0 shows none.

    Returns:
        The new canvas [B, T], and where it shows the target [B, T] bool.
    """
    wrong = (predicted.ne(target) & hidden).sum(1, keepdim=True)
    noise = torch.rand(target.shape, device=target.device).masked_fill(~hidden, 2.0)
    rank = noise.argsort(1).argsort(1)
    shown = (rank < (wrong * ratio).round()) & hidden
    return torch.where(shown, target, canvas), shown


@register_criterion("glat_loss", dataclass=LabelSmoothedDualImitationCriterionConfig)
class GlancingLoss(LabelSmoothedDualImitationCriterion):
    """``nat_loss`` with a word loss over the hidden positions only; CRF and length loss are unchanged.

    The losses are computed in FP32 for any dtype of the network, without synchronising with the GPU.
    """

    def forward(self, model: torch.nn.Module, sample: dict[str, Any], reduce: bool = True):
        """Return loss, sample size 1 and log entries; glances only if the sample has a ratio."""
        ratio = sample.get("glancing_ratio")
        if ratio is None:
            return super().forward(model, sample, reduce)
        target, canvas = sample["target"], sample["prev_target"]
        hidden = canvas.eq(self.task.target_dictionary.unk())
        src_tokens = sample["net_input"]["src_tokens"]
        source = model.encode(src_tokens)  # for both passes of the decoder, as in the paper's code
        with torch.no_grad():
            predicted = model.decode(canvas, source).argmax(-1)
        canvas, shown = glance(canvas, predicted, target, hidden, ratio)
        sample["prev_target"] = canvas
        outputs = model(src_tokens, sample["net_input"]["src_lengths"], canvas, target, source)
        words, length = outputs["word_ins"], outputs["length"]
        wanted = words["tgt"].masked_fill(~words["mask"] | shown, _IGNORED)
        word_loss = _WordLoss.apply(words["out"].flatten(0, 1), wanted.flatten(), words["ls"])
        length_loss = F.cross_entropy(length["out"].float(), length["tgt"])
        crf_loss = outputs["word_crf"]["loss"]
        loss = words["factor"] * word_loss + crf_loss + length["factor"] * length_loss
        right = (predicted.eq(target) & hidden).sum() / hidden.sum().clamp(min=1)
        logging_output = {
            "loss": loss.detach(),
            "nll_loss": word_loss.detach(),
            "word_ins-loss": word_loss.detach(),
            "word_crf-loss": crf_loss.detach(),
            "length-loss": length_loss.detach(),
            "glat_accuracy": right,
            "glat_ratio": ratio,
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": 1,
        }
        return loss, 1, logging_output

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """Log what ``nat_loss`` logs, the first pass's accuracy and the ratio; losses in bits."""
        batches = len(logging_outputs)
        for name in ("loss", "nll_loss", "word_ins-loss", "word_crf-loss", "length-loss"):
            mean = sum(log.get(name, 0) for log in logging_outputs) / batches
            metrics.log_scalar(name.removesuffix("-loss"), mean / math.log(2), batches, round=3)
        metrics.log_derived("ppl", lambda meters: utils.get_perplexity(meters["loss"].avg))
        for name in ("glat_accuracy", "glat_ratio"):
            values = [log[name] for log in logging_outputs if name in log]
            if values:
                metrics.log_scalar(name, sum(values) / len(values), round=3)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Return False, since accuracy and ratio are averages."""
        return False


class _WordLoss(torch.autograd.Function):
    """The mean over the counted positions, or 0 without any. The gradient is computed with it."""

    @staticmethod
    def forward(ctx, logits: Tensor, wanted: Tensor, smoothing: float) -> Tensor:
        losses, gradient = loss_and_gradient(logits, wanted, smoothing)
        count = wanted.ne(_IGNORED).sum().clamp(min=1)
        ctx.save_for_backward(gradient, count)
        return losses.sum() / count

    @staticmethod
    def backward(ctx, scale: Tensor) -> tuple[Tensor, None, None]:
        gradient, count = ctx.saved_tensors
        return gradient * (scale / count).to(gradient.dtype), None, None


@chain
def loss_and_gradient(logits: Tensor, wanted: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Return the smoothed cross-entropies [N] in FP32, and the gradient of their sum.

    Args:
        logits: scores of all tokens [N, V].
        wanted: tokens [N] int64; a position with -100 has loss 0.
        smoothing: share of the label smoothing, as PyTorch's ``cross_entropy`` defines it.

    Returns:
        The losses, and the gradient [N, V] in the logits' dtype.
    """
    counted = wanted.ne(_IGNORED)[:, None]
    each = smoothing / logits.shape[1]
    log = full_precision(logits).log_softmax(-1)
    hit = torch.arange(logits.shape[1], device=logits.device) == wanted[:, None]
    wished = torch.where(hit, 1 - smoothing + each, each)
    losses = -(wished * log).sum(-1, keepdim=True)
    gradient = torch.where(counted, log.exp() - wished, 0)
    return torch.where(counted, losses, 0)[:, 0], gradient.to(logits.dtype)
