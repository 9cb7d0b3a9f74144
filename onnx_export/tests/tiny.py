"""A small one-pass network with random weights, exported."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from onnx_export import export, export_one_pass, onnx_file
from onnx_export.verify_one_pass import random_source
from train_model.models.checkpoint import save_checkpoint
from train_model.models.conv_crf_transformer import ConvCrfTransformer
from train_model.models.fold import fold
from train_model.quantization import ptq
from train_model.tests.networks import one_pass

TINY = one_pass()


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
    export.main(["--checkpoint", str(exported.checkpoint), "--output", str(exported.onnx)])
    return exported


def export_quantized(folder: Path, keep: Sequence[str] = ()) -> tuple[ConvCrfTransformer, Path]:
    """Calibrate the network on random sources and export it; the layers ``keep`` stay in FP32.

    Skips the test where modelopt is not installed.
    """
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed (make env)")
    generator = torch.Generator().manual_seed(5)
    batches = [random_source(4, n, "right", TINY.src_vocab, generator) for n in (5, 9, 30)]
    model = ptq.quantize(export_tiny(folder).model, list(keep), batches)
    path = folder / "model.qdq.onnx"
    onnx_file.save_onnx(export_one_pass.to_onnx(fold(model)), path)
    return model, path
