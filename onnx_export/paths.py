"""Names of the files that belong to one graph or engine. Imports no package, unlike ``onnx_file``."""

from pathlib import Path


def half_path(path: Path, half: str) -> Path:
    """Return the path of a half of ``path``: ``model.fp16.onnx`` -> ``model.fp16.encoder.onnx``."""
    return path.parent / f"{path.stem}.{half}{path.suffix}"


def plain_path(path: Path) -> Path:
    """Return the path of the form without plugins: ``model.fp16.onnx`` -> ``model.fp16.plain.onnx``."""
    return path.parent / f"{path.stem}.plain{path.suffix}"
