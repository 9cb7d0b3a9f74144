"""``--task translation_ar``: fairseq's ``translation``, with batches that can be kept in memory."""

from dataclasses import dataclass, field

from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from train_model.fairseq_plugin.kept_batches import KeepsBatches


@dataclass
class TranslationArConfig(TranslationConfig):
    """The options of ``translation``, and ``keep_batches``."""

    keep_batches: bool = field(
        default=False, metadata={"help": "collate every batch once (needs --num-workers 0)"}
    )


@register_task("translation_ar", dataclass=TranslationArConfig)
class TranslationArTask(KeepsBatches, TranslationTask):
    """Autoregressive translation."""

    cfg: TranslationArConfig
