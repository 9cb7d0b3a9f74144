"""The demo with small networks of random weights: it has every file and runs quickly."""

import itertools
import shutil
import subprocess
from pathlib import Path

import torch

from train_model.data.dictionary import Dictionary
from train_model.models.checkpoint import save_checkpoint
from train_model.models.conv_crf_transformer import ConvCrfTransformer
from train_model.models.transformer_multibranch_v2 import TransformerMultibranch
from train_model.tests.networks import one_pass, step_by_step

ROOT = Path(__file__).parents[3]
LINES = 40  # per split


def copy_checkout(folder: Path) -> Path:
    """Copy the checkout's files to ``folder``, with the small demo; return the demo's folder.

    These are copies and not links because a program finds ``data_model`` next to its own real file.
    """
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return put_into(folder)


def put_into(folder: Path) -> Path:
    """Make ``data_model/demo`` and ``demo-ar`` in ``folder`` again, and return the first."""
    demo, demo_ar = (folder / "data_model" / name for name in ("demo", "demo-ar"))
    for model in (demo, demo_ar):
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(
            ROOT / "data_model" / model.name, model, ignore=shutil.ignore_patterns("*.pt")
        )
    for split, side in itertools.product(("test", "valid"), ("en", "de")):
        path = demo / f"{split}.{side}"
        lines = path.read_text(encoding="utf-8").split("\n")[:LINES]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = len(Dictionary.load(demo / "dict.en.txt"))
    torch.manual_seed(1)
    small = {
        "src_vocab": words,
        "tgt_vocab": words,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_kernel_size_list": (3,),
        "decoder_kernel_size_list": (3,),
    }
    whole = one_pass(
        **small,
        encoder_embed_dim=16,
        encoder_ffn_embed_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_source_positions=1024,
        max_target_positions=1024,
        crf_beam_approx=8,
    )
    save_checkpoint(demo / "checkpoint.pt", ConvCrfTransformer(whole), whole)
    greedy = step_by_step(16, **small, max_source_positions=128, max_target_positions=64)
    save_checkpoint(demo_ar / "checkpoint.pt", TransformerMultibranch(greedy), greedy)
    return demo
