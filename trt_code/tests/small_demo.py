"""The demo with small networks of random weights as its own: every file is there, nothing takes long."""

import itertools
import shutil
from pathlib import Path

import torch

from train_model.data.dictionary import Dictionary
from train_model.models.checkpoint import save_checkpoint
from train_model.models.config import NatConfig
from train_model.models.conv_crf_transformer import ConvCrfTransformer
from train_model.models.multibranch_config import MultibranchConfig
from train_model.models.transformer_multibranch_v2 import TransformerMultibranch

ROOT = Path(__file__).parents[2]
LINES = 40  # of each split


def put_into(folder: Path) -> Path:
    """Make ``data_model/demo`` in ``folder`` anew, and return it."""
    demo = folder / "data_model" / "demo"
    shutil.rmtree(demo, ignore_errors=True)
    shutil.copytree(ROOT / "data_model" / "demo", demo, ignore=shutil.ignore_patterns("*.pt"))
    for split, side in itertools.product(("test", "valid"), ("en", "de")):
        path = demo / f"{split}.{side}"
        lines = path.read_text(encoding="utf-8").split("\n")[:LINES]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = len(Dictionary.load(demo / "dict.en.txt"))
    torch.manual_seed(1)
    small = {
        "src_vocab": words,
        "tgt_vocab": words,
        "encoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "encoder_kernel_size_list": (3,),
        "decoder_kernel_size_list": (3,),
        "conv_linear": True,
        "padding_policy": "masked",
    }
    one_pass = NatConfig(
        **small,
        encoder_attention_heads=2,
        encoder_learned_pos=True,
        decoder_learned_pos=True,
        src_embedding_copy=True,
        crf_lowrank_approx=4,
        crf_beam_approx=8,
    )
    save_checkpoint(demo / "checkpoint.pt", ConvCrfTransformer(one_pass), one_pass)
    branches = ("attn:1:8:2", "dynamic:default:8:2")
    greedy = MultibranchConfig(
        **small,
        encoder_branch_type=branches,
        decoder_branch_type=branches,
        decoder_ffn_embed_dim=16,
        max_source_positions=128,
        max_target_positions=64,
    )
    save_checkpoint(demo / "checkpoint-ar.pt", TransformerMultibranch(greedy), greedy)
    return demo
