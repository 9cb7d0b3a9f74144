"""The model ``tiny``, and an autoregressive one for the same text."""

import dataclasses
from pathlib import Path

import torch

from train_model.data.dictionary import Dictionary
from train_model.model_folder import ModelFolder
from train_model.models.checkpoint import save_checkpoint
from train_model.models.transformer_multibranch_v2 import TransformerMultibranch
from train_model.tests.networks import step_by_step


def tiny_pair(tiny: ModelFolder, folder: Path) -> dict[str, ModelFolder]:
    """Return ``tiny``, and ``tiny-ar`` with random weights, which are saved in ``folder``."""
    symbols = len(Dictionary.load(tiny.src_dict))
    torch.manual_seed(0)
    sizes = {"src_vocab": symbols, "tgt_vocab": symbols, "encoder_layers": 1, "decoder_layers": 1}
    config = step_by_step(16, **sizes, max_source_positions=1024, max_target_positions=12)
    path = folder / "ar.pt"
    save_checkpoint(path, TransformerMultibranch(config), config)
    changes = {"checkpoint": path, "architecture": "transformer_multibranch_v2"}
    return {"tiny": tiny, "tiny-ar": dataclasses.replace(tiny, name="tiny-ar", **changes)}
