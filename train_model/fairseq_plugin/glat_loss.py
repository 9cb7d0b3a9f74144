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
        """Return False: accuracy and ratio are averages."""
        return False


def _cross_entropy(logits: Tensor, wanted: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean over the counted positions, or 0 without any."""
    total = F.cross_entropy(
        logits, wanted, ignore_index=_IGNORED, reduction="sum", label_smoothing=label_smoothing
    )
    return total / wanted.ne(_IGNORED).sum().clamp(min=1)
