"""The project's extensions of fairseq: networks, tasks, a criterion, an optimizer; registered on import.

``train_model.train`` imports this package. fairseq's own tools take it as ``--user-dir
train_model/fairseq_plugin`` in a process that called :func:`train_model.fairseq_compat.prepare`.
"""

from train_model import fairseq_compat

fairseq_compat.prepare()

from . import (  # noqa: E402, F401
    conv_crf_transformer,
    fused_adam,
    glat_loss,
    master_weights,
    r_drop,
    transformer_multibranch_v2,
    translation_ar,
    translation_nat,
)
