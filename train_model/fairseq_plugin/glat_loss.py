"""``--criterion glat_loss``: ``nat_loss`` with glancing (Qian et al. 2021, arXiv 2008.07905).

The network first translates the fully masked canvas. Then some target tokens are shown to it, the more
the worse that translation was, and it learns to fill in the rest. ``--task translation_nat`` gives the
share of wrong tokens to show.
"""

from typing import Any

import torch
from fairseq import metrics
from fairseq.criterions import register_criterion
from fairseq.criterions.nat_loss import (
    LabelSmoothedDualImitationCriterion,
    LabelSmoothedDualImitationCriterionConfig,
)
from torch import Tensor


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
    """The word loss counts hidden positions alone; CRF and length loss are those of ``nat_loss``."""

    def forward(self, model: torch.nn.Module, sample: dict[str, Any], reduce: bool = True):
        """Loss, sample size 1, and what to log; glances only where the sample has a ratio."""
        ratio = sample.get("glancing_ratio")
        if ratio is None:
            return super().forward(model, sample, reduce)
        target, canvas = sample["target"], sample["prev_target"]
        unk = self.task.target_dictionary.unk()
        hidden = canvas.eq(unk)
        source = sample["net_input"]["src_tokens"]
        with torch.no_grad():
            predicted = model.decode(canvas, model.encode(source)).argmax(-1)
        sample["prev_target"], shown = glance(canvas, predicted, target, hidden, ratio)

        def outputs_of_hidden(*inputs: Tensor) -> dict[str, dict[str, Any]]:
            outputs = model(*inputs)
            outputs["word_ins"]["mask"] = outputs["word_ins"]["mask"] & ~shown
            return outputs

        loss, sample_size, logging_output = super().forward(outputs_of_hidden, sample, reduce)
        right = (predicted.eq(target) & hidden).sum() / hidden.sum().clamp(min=1)
        return loss, sample_size, logging_output | {"glat_accuracy": right, "glat_ratio": ratio}

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """As ``nat_loss``, with the first pass's accuracy and the ratio."""
        LabelSmoothedDualImitationCriterion.reduce_metrics(logging_outputs)
        for name in ("glat_accuracy", "glat_ratio"):
            values = [log[name] for log in logging_outputs if name in log]
            if values:
                metrics.log_scalar(name, sum(values) / len(values), round=3)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """No: the two shares are averages."""
        return False
