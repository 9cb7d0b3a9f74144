"""Exports a model's ONNX files when a program first needs them, and keeps them in a cache."""

import contextlib
import hashlib
import os
import sys
from pathlib import Path

from train_model.cli import one_at_a_time
from train_model.model_folder import ModelFolder
from trt_code.runners import RUNNERS, spec

CACHE = "LITE_TRANSFORMER_TRT_CACHE"
"""The environment variable that names the cache folder."""


def cache_folder(files: ModelFolder, root: str | os.PathLike | None = None) -> Path:
    """Return the build folder of a model in the cache; each version of a checkpoint has its own.

    Args:
        root: default: the environment variable ``CACHE``, or lite-transformer-trt in the user's cache folder.
    """
    root = root or os.environ.get(CACHE)
    if root is None:
        user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = Path(user) / "lite-transformer-trt"
    state = files.checkpoint.stat()
    identity = f"{files.checkpoint.resolve()} {state.st_size} {state.st_mtime_ns}"
    return Path(root) / hashlib.sha256(identity.encode()).hexdigest()[:12]


def ensure_graphs(
    files: ModelFolder,
    build_dir: str | os.PathLike,
    runner: str = "auto",
    precision: str = "fp32",
    device: str = "cpu",
) -> None:
    """Export and patch what ``runner`` opens, unless it exists; says so on stderr.

    "auto" means ONNX Runtime. Runners that read the checkpoint or an engine need nothing.

    Raises:
        UserError: the checkpoint cannot be exported, or the folder cannot be written.
    """
    if runner == "auto":
        runner = "ort-split" if files.family == "one-pass" else "ort"
    chosen = spec(runner, files.family) if runner in RUNNERS else None
    if (
        chosen is None
        or chosen.graphs is None
        or precision not in chosen.precisions.get(device, ())
    ):
        return  # opening the runner reports the error
    names = chosen.graphs(precision, device).files
    folder = Path(build_dir) / files.name
    with one_at_a_time(folder / ".lock"):
        if all((folder / name).is_file() for name in names) or precision == "int8":
            return  # INT8 needs a calibration; opening the runner says so
        split = ["--split"] if runner == "ort-split" else []
        print(f"exporting {files.name} into {folder}, once; takes a minute", file=sys.stderr)
        exported = folder / "model.onnx"
        with contextlib.redirect_stdout(sys.stderr):
            from onnx_export import export

            export.main(["--checkpoint", str(files.checkpoint), "--output", str(exported), *split])
            if precision != "fp32":
                from trt_code import onnx_surgeon

                output = str(folder / f"model.{precision}.onnx")
                flags = ["--input", str(exported), "--output", output, "--precision", precision]
                onnx_surgeon.main([*flags, *split])
