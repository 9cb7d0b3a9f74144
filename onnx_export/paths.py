"""Names of the files that belong to one graph or engine. Imports no package, unlike ``onnx_file``."""

from pathlib import Path


def half_path(path: Path, half: str) -> Path:
    """Where a half of what ``path`` names is: ``model.fp16.onnx`` -> ``model.fp16.encoder.onnx``."""
    return path.with_suffix(f".{half}{path.suffix}")


def plain_path(path: Path) -> Path:
    """Where the form without plugins is: ``model.fp16.onnx`` -> ``model.fp16.plain.onnx``."""
    return path.with_suffix(f".plain{path.suffix}")
