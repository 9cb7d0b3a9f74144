"""Makes a model's ONNX files and engines when a program first needs them, and keeps them in a cache."""

import contextlib
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from onnx_export.paths import half_path, plain_path
from train_model.cli import UserError, one_at_a_time
from train_model.model_folder import ModelFolder, quantized_checkpoint
from train_model.model_yaml import computation
from train_model.models.signatures import SPLIT
from trt_code.native.library import has_compiler
from trt_code.runners import RUNNERS, spec
from trt_code.user_cache import user_cache


def cache_folder(files: ModelFolder, root: str | os.PathLike | None = None) -> Path:
    """Return the build folder of a model in the cache; each version of a network has its own.

    Args:
        root: default: ``trt_code.user_cache.user_cache()``.
    """
    root = root or user_cache()
    state = files.checkpoint.stat()
    identity = f"{files.checkpoint.resolve()} {state.st_size} {state.st_mtime_ns}"
    if options := computation(files.checkpoint):
        identity += json.dumps(options, sort_keys=True, default=str)
    return Path(root) / hashlib.sha256(identity.encode()).hexdigest()[:12]


def ensure_built(
    files: ModelFolder,
    build_dir: str | os.PathLike,
    runner: str = "auto",
    precision: str = "fp32",
    device: str = "cpu",
) -> None:
    """Make the files that ``runner`` opens, unless they exist; says so on stderr.

    These are a native program, ONNX files, TensorRT engines, and for INT8 a calibrated checkpoint. "auto" is
    the runner native on a CPU with a C++ compiler, otherwise ONNX Runtime if it has the device. A runner
    that does not offer the precision gets nothing; opening it reports the error.

    Raises:
        UserError: a file cannot be made, or engines were asked for and TensorRT or a GPU is missing.
    """
    if runner == "auto":
        if device == "cuda" and not _onnx_runtime_has_cuda():
            return
        runner = "ort-split" if files.family == "one-pass" else "ort"
        native = spec("native", files.family)
        if native and precision in native.precisions.get(device, ()) and has_compiler():
            runner = "native"
    chosen = spec(runner, files.family) if runner in RUNNERS else None
    if chosen is None or precision not in chosen.precisions.get(device, ()):
        return
    if chosen.reads == "checkpoint" and precision != "int8":
        return
    maker = _Maker(files, Path(build_dir), precision, split=runner.endswith("-split"))
    with one_at_a_time(maker.folder / ".lock"), contextlib.redirect_stdout(sys.stderr):
        if chosen.reads == "program":
            maker.program(*chosen.graphs(precision, device).files)
        elif chosen.graphs is not None:
            maker.graphs(chosen.graphs(precision, device).files)
        elif chosen.reads == "engine":
            maker.engines()
        else:
            maker.checkpoint()


class _Maker:
    """Makes the files of a model in one precision, as the Makefile does; ``split``: those of two halves."""

    def __init__(self, files: ModelFolder, build_dir: Path, precision: str, split: bool):
        self.folder = build_dir / files.name
        self._files, self._build_dir, self._precision = files, build_dir, precision
        self._split = ["--split"] if split else []

    def checkpoint(self) -> Path:
        """Return the model's checkpoint, for INT8 the quantised one, which is calibrated if there is none."""
        if self._precision != "int8":
            return self._files.checkpoint
        made = quantized_checkpoint(self._files.name, self._build_dir)
        if made is None:
            from train_model.quantization import ptq

            made = self._build_dir / f"{self._files.name}-ptq" / "checkpoint.pt"
            print(f"calibrating {self._files.name} for INT8, once; takes a minute")
            options = {"--model": self._files.argument, "--build-dir": str(self._build_dir)}
            ptq.main([*itertools.chain(*options.items()), "--output", str(made)])
        return made

    def graphs(self, names: Iterable[str], plain: bool = False) -> None:
        """Make the ONNX files ``names``; ``plain`` patches for TensorRT without plugins."""
        if self._has(names):
            return
        exported = self.folder / ("model.qdq.onnx" if self._precision == "int8" else "model.onnx")
        halves = (
            [half_path(exported, half).name for half in SPLIT] if self._split else [exported.name]
        )
        if not self._has(halves):
            from onnx_export import export

            checkpoint = self.checkpoint()
            print(f"exporting {self._files.name} into {self.folder}, once; takes a minute")
            export.main(["--checkpoint", str(checkpoint), "--output", str(exported), *self._split])
        if self._has(names):
            return
        from trt_code import onnx_surgeon

        output = self.folder / f"model.{self._precision}.onnx"
        onnx_surgeon.main(
            ["--input", str(exported), "--output", str(plain_path(output) if plain else output)]
            + ["--precision", self._precision, *self._split]
            + (["--plugins", "none"] if plain else [])
        )

    def program(self, name: str) -> None:
        """Make the native program ``name``."""
        if self._has([name]):
            return
        from trt_code.native import export

        print(f"exporting {self._files.name} into {self.folder}, once; takes seconds")
        output = str(self.folder / name)
        export.main(["--checkpoint", str(self.checkpoint()), "--output", output])

    def engines(self) -> None:
        """Build the TensorRT engines, with plugins if their library is built.

        Raises:
            UserError: TensorRT or a GPU is missing.
        """
        from trt_code import build_engine
        from trt_code.engine.gpu import installed_gpus
        from trt_code.engine.plugin_library import default_library
        from trt_code.engine.tensorrt_api import RTX, choose_family, load_tensorrt

        graph = self.folder / f"model.{self._precision}.onnx"
        if any(self._has(_plans(self._engine_graphs(path))) for path in (graph, plain_path(graph))):
            return
        if not installed_gpus():
            raise UserError(
                "TensorRT engines run on a GPU, and the driver shows none here; choose the runner ort, or "
                "torch"
            )
        family = choose_family()
        plain = not default_library(load_tensorrt(family)).is_file()
        names = self._engine_graphs(plain_path(graph) if plain else graph)
        self.graphs(names, plain)
        print(
            f"building TensorRT engines of {self._files.name} in {self.folder}, once; takes minutes"
        )
        # the full TensorRT keeps its timings; the default file is in the working folder
        timings = [] if family is RTX else ["--timing-cache", str(self.folder / "timing.cache")]
        for name, plan in zip(names, _plans(names), strict=True):
            build_engine.main(
                ["--onnx", str(self.folder / name), "--output", str(self.folder / plan), *timings]
            )

    def _engine_graphs(self, graph: Path) -> list[str]:
        """Return the names of the ONNX files whose engines the runner opens."""
        if self._split:
            return [half_path(graph, half).name for half in SPLIT]
        if self._files.family == "one-pass":
            return [graph.name]
        return [graph.name, half_path(graph, "encoder").name]

    def _has(self, names: Iterable[str]) -> bool:
        return all((self.folder / name).is_file() for name in names)


def _plans(graphs: Iterable[str]) -> list[str]:
    return [str(Path(name).with_suffix(".plan")) for name in graphs]


def _onnx_runtime_has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
