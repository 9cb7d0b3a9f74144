"""The project's modules that Triton's Python models import, copied next to them."""

import shutil
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
_COMMON = (
    "train_model/__init__.py",
    "train_model/cli.py",
    "train_model/interrupt.py",
    "train_model/scratch.py",
    "train_model/data/__init__.py",
    "train_model/data/dictionary.py",
    "train_model/data/files.py",
    "train_model/models/__init__.py",
    "train_model/models/signatures.py",
)
TEXT_MODULES = (
    *_COMMON,
    "train_model/data/bpe.py",
    "train_model/data/moses.py",
    "train_model/data/regex_cost.py",
    "train_model/data/subwords.py",
    "train_model/data/text.py",
    "train_model/data/tokenizer.py",
    "train_model/data/word_cache.py",
)
LOOP_MODULES = (
    *_COMMON,
    "onnx_export/__init__.py",
    "onnx_export/checked.py",
    "onnx_export/marks.py",
    "onnx_export/paths.py",
    "onnx_export/session.py",
    "onnx_export/split_session.py",
    "onnx_export/step_session.py",
    "train_model/documents.py",
    "train_model/file_sets.py",
    "train_model/models/architectures.py",
    "train_model/models/canvas.py",
    "train_model/models/hypotheses.py",
    "train_model/models/numpy_search.py",
    "train_model/models/refinement.py",
)


def copy_modules(names: Iterable[str], folder: Path) -> None:
    """Copy the modules to the same places under ``folder``."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
