"""``--criterion glat_loss``: ``nat_loss`` with glancing (Qian et al. 2021, arXiv 2008.07905).

The network first translates the fully masked canvas. Then some target tokens are shown to it, the more
the worse that translation was, and it learns to fill in the rest. ``--task translation_nat`` gives the
share of wrong tokens to show.
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

_IGNORED = -100  # a target that the word loss leaves out


def glance(
    canvas: Tensor, predicted: Tensor, target: Tensor, hidden: Tensor, ratio: float
) -> tuple[Tensor, Tensor]:
    """Show random target tokens, ``ratio`` times as many as ``predicted`` has wrong in a sentence.

    Args:
        canvas: the decoder's input [B, T] int64.
        predicted: the network's tokens for it [B, T] int64.
        target: the reference [B, T] int64.
        hidden: True at the positions that may be shown [B, T] bool.
        ratio: 0 shows none, 1 as many as are wrong.

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
    """The word loss counts hidden positions alone; CRF and length loss are those of ``nat_loss``.

    The losses are computed in FP32 whatever the network computes in, and nothing waits for the GPU.
    """

    def forward(self, model: torch.nn.Module, sample: dict[str, Any], reduce: bool = True):
        """Loss, sample size 1, and what to log; glances only where the sample has a ratio."""
        ratio = sample.get("glancing_ratio")
        if ratio is None:
            return super().forward(model, sample, reduce)
        target, canvas = sample["target"], sample["prev_target"]
        hidden = canvas.eq(self.task.target_dictionary.unk())
        source = sample["net_input"]["src_tokens"]
        with torch.no_grad():
            predicted = model.decode(canvas, model.encode(source)).argmax(-1)
        canvas, shown = glance(canvas, predicted, target, hidden, ratio)
        sample["prev_target"] = canvas
        outputs = model(source, sample["net_input"]["src_lengths"], canvas, target)
        words, length = outputs["word_ins"], outputs["length"]
        wanted = words["tgt"].masked_fill(~words["mask"] | shown, _IGNORED)
        logits = words["out"].float().flatten(0, 1)
        word_loss = _cross_entropy(logits, wanted.flatten(), label_smoothing=words["ls"])
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
        """As ``nat_loss``, with the first pass's accuracy and the ratio; losses in bits."""
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
        """No: the two shares are averages."""
        return False


def _cross_entropy(logits: Tensor, wanted: Tensor, label_smoothing: float) -> Tensor:
    """The mean over the positions that count, 0 where there is none."""
    total = F.cross_entropy(
        logits, wanted, ignore_index=_IGNORED, reduction="sum", label_smoothing=label_smoothing
    )
    return total / wanted.ne(_IGNORED).sum().clamp(min=1)
