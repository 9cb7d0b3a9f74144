"""``--task translation_ar``: fairseq's ``translation``, with batches that can be kept in memory."""

from dataclasses import dataclass

from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from train_model.fairseq_plugin.kept_batches import KeepsBatches, KeptBatchesConfig


@dataclass
class TranslationArConfig(KeptBatchesConfig, TranslationConfig):
    """The options of ``translation``, ``keep_batches`` and ``cuda_graphs``."""


@register_task("translation_ar", dataclass=TranslationArConfig)
class TranslationArTask(KeepsBatches, TranslationTask):
    """Autoregressive translation."""

    cfg: TranslationArConfig
