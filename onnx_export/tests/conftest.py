"""A small network of the full architecture, exported once."""

import dataclasses
from pathlib import Path

import pytest
import torch

from onnx_export import export, onnx_file
from train_model.models.checkpoint import save_checkpoint
from train_model.models.config import NatConfig
from train_model.models.conv_crf_transformer import ConvCrfTransformer
from train_model.models.fold import fold

TINY = NatConfig(
    src_vocab=90,
    tgt_vocab=80,
    encoder_embed_dim=24,
    encoder_ffn_embed_dim=40,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_kernel_size_list=(3, 6),
    decoder_kernel_size_list=(1, 5),
    encoder_learned_pos=True,
    decoder_learned_pos=True,
    conv_linear=True,
    src_embedding_copy=True,
    max_source_positions=40,
    max_target_positions=50,
    crf_lowrank_approx=4,
    crf_beam_approx=6,
    padding_policy="masked",
)


@dataclasses.dataclass(frozen=True)
class Exported:
    model: ConvCrfTransformer
    checkpoint: Path
    onnx: Path


def export_tiny(folder: Path, **changes) -> Exported:
    """Export the network with some options changed; biases and norms are random, not 0 and 1."""
    torch.manual_seed(0)
    model = ConvCrfTransformer(dataclasses.replace(TINY, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.1
    exported = Exported(model, folder / "checkpoint.pt", folder / "model.onnx")
    save_checkpoint(exported.checkpoint, model, model.config)
    onnx_file.save_onnx(export.to_onnx(fold(model)), exported.onnx)
    return exported


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Exported:
    return export_tiny(tmp_path_factory.mktemp("tiny"))
