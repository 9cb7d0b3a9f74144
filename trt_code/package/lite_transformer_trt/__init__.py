"""Translate with Lite Transformer models in ONNX Runtime, PyTorch or TensorRT; see doc/python.md.

from lite_transformer_trt import Translator

with Translator("demo") as translator:
    translator.translate(["three hundred and forty-two"])
"""

import sys
from pathlib import Path

# An installed package has the stages in a separate folder. In a clone they are the top-level folders.
_INSTALLED = Path(__file__).parent / "stages"
STAGES = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[3]
"""The folder of train_model, onnx_export and trt_code, which import each other by these names."""

if str(STAGES) not in sys.path:
    sys.path.append(str(STAGES))

import trt_code  # noqa: E402

if Path(trt_code.__file__).parent.parent.resolve() != STAGES.resolve():
    raise ImportError(
        f"lite_transformer_trt needs its own package trt_code in {STAGES}, but another one is imported "
        f"from {trt_code.__file__}"
    )

from train_model.cli import UserError  # noqa: E402
from trt_code.text.api import Batch, Translator  # noqa: E402

__all__ = ["Batch", "Translator", "UserError"]
