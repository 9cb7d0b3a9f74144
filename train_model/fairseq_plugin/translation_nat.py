"""``--task translation_nat``: ``translation_lev`` with validation that decodes, and glancing.

fairseq 0.12.2's ``translation_lev`` takes ``--eval-bleu`` and ignores it, so its best checkpoint is
chosen by the loss alone. This task is the same in training and batches, and reports at validation

* ``bleu`` (with ``--eval-bleu``), by the generator that ``--eval-bleu-args`` describes,
* ``exact``: percentage of sentences translated exactly as the reference,
* ``right_length``: percentage of sentences with the right predicted length.

It also gives the criterion ``glat_loss`` the glancing ratio of each update.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq import metrics, utils
from fairseq.tasks import register_task
from fairseq.tasks.translation import EVAL_BLEU_ORDER
from fairseq.tasks.translation_lev import (
    TranslationLevenshteinConfig,
    TranslationLevenshteinTask,
)

from train_model.fairseq_plugin.kept_batches import KeepsBatches, KeptBatchesConfig


@dataclass
class TranslationNatConfig(KeptBatchesConfig, TranslationLevenshteinConfig):
    """The options of ``translation_lev``, the schedule of glancing, and those of kept batches."""

    glancing_start: float = field(
        default=0.5, metadata={"help": "share of the wrong tokens shown at first (glat_loss)"}
    )
    glancing_end: float = field(
        default=0.3, metadata={"help": "share of the wrong tokens shown at last (glat_loss)"}
    )
    glancing_updates: int = field(
        default=100_000, metadata={"help": "updates between the two shares (glat_loss)"}
    )


@register_task("translation_nat", dataclass=TranslationNatConfig)
class TranslationNatTask(KeepsBatches, TranslationLevenshteinTask):
    """Non-autoregressive translation."""

    cfg: TranslationNatConfig

    def glancing_ratio(self, update: int) -> float:
        """Return the shown tokens per wrong token, which fall linearly from start to end."""
        done = min(1.0, update / max(1, self.cfg.glancing_updates))
        return self.cfg.glancing_start + done * (self.cfg.glancing_end - self.cfg.glancing_start)

    def with_schedule(self, sample: dict[str, Any], update: int) -> dict[str, Any]:
        """Return the sample with the ratio, unless it has one."""
        return {"glancing_ratio": self.glancing_ratio(update)} | sample

    def train_step(self, sample, model, criterion, optimizer, update_num, ignore_grad=False):
        """Train as ``translation_lev`` does; adds the ratio for ``glat_loss`` to the sample."""
        sample = self.with_schedule(sample, update_num)
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)

    def valid_step(self, sample, model, criterion):
        """Return the loss, and with ``--eval-bleu`` the counts from decoding."""
        loss, sample_size, logging_output = super().valid_step(sample, model, criterion)
        if self.cfg.eval_bleu:
            logging_output |= self._decode(sample, model)
        return loss, sample_size, logging_output

    def inference_step(self, generator, models, sample, prefix_tokens=None, constraints=None):
        """Generate as fairseq does, with the batch's device as PyTorch's default for indices."""
        with torch.device(sample["net_input"]["src_tokens"].device):
            return super().inference_step(generator, models, sample, prefix_tokens, constraints)

    def reduce_metrics(self, logging_outputs, criterion):
        """Log BLEU as ``translation`` computes it, and the two percentages."""
        super().reduce_metrics(logging_outputs, criterion)
        sentences = sum(log.get("_sentences", 0) for log in logging_outputs)
        if sentences:
            for name in ("exact", "right_length"):
                count = sum(log.get(f"_{name}", 0) for log in logging_outputs)
                metrics.log_scalar(name, 100 * count / sentences, sentences, round=2)

    def _decode(self, sample: dict[str, Any], model: torch.nn.Module) -> dict[str, int]:
        """Translate a batch; return counts that can be summed over batches and processes."""
        import sacrebleu

        found = self.inference_step(self.sequence_generator, [model], sample)
        hypotheses = [sentence[0]["tokens"].int().cpu() for sentence in found]
        references = [
            utils.strip_pad(target, self.tgt_dict.pad()).int().cpu() for target in sample["target"]
        ]
        pairs = list(zip(hypotheses, references, strict=True))
        bleu = sacrebleu.corpus_bleu(
            [self._text(tokens, "UNKNOWNTOKENINHYP") for tokens in hypotheses],
            [[self._text(tokens, "UNKNOWNTOKENINREF") for tokens in references]],
            tokenize="none" if self.cfg.eval_tokenized_bleu else "13a",
            force=True,  # silences the advice about detokenising
        )
        counts = {
            "_sentences": len(pairs),
            "_exact": sum(torch.equal(ours, reference) for ours, reference in pairs),
            "_right_length": sum(len(ours) == len(reference) for ours, reference in pairs),
            "_bleu_sys_len": bleu.sys_len,
            "_bleu_ref_len": bleu.ref_len,
        }
        for order in range(EVAL_BLEU_ORDER):
            counts[f"_bleu_counts_{order}"] = bleu.counts[order]
            counts[f"_bleu_totals_{order}"] = bleu.totals[order]
        return counts

    def _text(self, tokens: torch.Tensor, unknown: str) -> str:
        text = self.tgt_dict.string(tokens, self.cfg.eval_bleu_remove_bpe, unk_string=unknown)
        return self.tokenizer.decode(text) if self.tokenizer else text
