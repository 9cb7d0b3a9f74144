"""``make doctor``: what this machine has of what the project can use, and how to get the rest.

One line a dependency. ``--require NAME`` is what the Makefile asks before a target that needs more
than the base: it says nothing when the thing is there, else one line and exit status 2. Needs the
standard library only, so that it runs before anything is installed.
"""

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from train_model.cli import UserError, run

HEADER = "NvInferVersion.h"
HEADER_FOLDERS = (
    "/usr/include/x86_64-linux-gnu",
    "/usr/include/aarch64-linux-gnu",
    "/usr/include",
    "/usr/local/tensorrt/include",
)


@dataclass(frozen=True)
class Dependency:
    """Something a target may need.

    Attributes:
        name: what ``--require`` calls it.
        purpose: the targets or files that need it.
        install: the command, or one sentence, that gets it.
        find: gives its version or place, or None where it is missing.
        without: what works without it; empty for what nothing works without.
    """

    name: str
    purpose: str
    install: str
    find: Callable[[], str | None]
    without: str = ""


def _package(name: str) -> Callable[[], str | None]:
    def find() -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    return find


def _program(*names: str) -> Callable[[], str | None]:
    return lambda: next(filter(None, map(shutil.which, names)), None)


def _nvcc() -> str | None:
    return shutil.which(os.environ.get("CUDACXX") or "nvcc")


def _python() -> str | None:
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return ".".join(map(str, sys.version_info[:3])) if supported else None


def _gpu() -> str | None:
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        reply = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = reply.stdout.strip().splitlines()
    return f"{lines[0]} ({len(lines)} in all)" if reply.returncode == 0 and lines else None


def header_folders() -> list[Path]:
    """Where TensorRT's headers are looked for, in order."""
    roots = filter(None, (os.environ.get("TENSORRT_ROOT"), os.environ.get("TENSORRT_HOME")))
    return [Path(root) / "include" for root in roots] + [Path(folder) for folder in HEADER_FOLDERS]


def find_headers() -> str | None:
    """TensorRT's version and the folder of its headers; None where there are none."""
    for folder in header_folders():
        if (folder / HEADER).is_file():
            text = (folder / HEADER).read_text(errors="replace")
            numbers = [
                re.search(rf"#define (?:NV_TENSORRT_{part}|TRT_{part}_ENTERPRISE) (\d+)", text)
                for part in ("MAJOR", "MINOR")
            ]
            version = ".".join(number[1] for number in numbers if number)
            return f"{version} in {folder}"
    return None


_ENV = "make env"
_NOT_LINT = "every target but lint"
_CPU = "make bench, eval, translate and test"
DEPENDENCIES = (
    Dependency("python", "everything", "install Python 3.11, 3.12 or 3.13", _python),
    Dependency("make", "everything", "apt install make", _program("make", "gmake")),
    Dependency("c++", "fairseq's build", "apt install g++", _program("c++", "g++", "clang++")),
    Dependency("torch", "the networks, export", _ENV, _package("torch")),
    Dependency("onnx", "export, surgery", _ENV, _package("onnx")),
    Dependency("onnxscript", "export", _ENV, _package("onnxscript")),
    Dependency("onnx-ir", "surgery", _ENV, _package("onnx-ir")),
    Dependency("onnxruntime", "the ort runner, verify", _ENV, _package("onnxruntime")),
    Dependency("sacrebleu", "make eval", _ENV, _package("sacrebleu")),
    Dependency("subword-nmt", "text in, text out", _ENV, _package("subword-nmt")),
    Dependency("matplotlib", "plots", _ENV, _package("matplotlib")),
    Dependency("fairseq", "make train", _ENV, _package("fairseq"), "every target but train"),
    Dependency(
        "nvidia-modelopt",
        "make ptq, qat, sensitivity",
        _ENV,
        _package("nvidia-modelopt"),
        "every target but these, a quantised checkpoint included",
    ),
    Dependency("pytest", "make test", _ENV, _package("pytest"), "every target but test"),
    Dependency("ruff", "make lint", _ENV, _package("ruff"), _NOT_LINT),
    Dependency("clang-format", "make lint", _ENV, _package("clang-format"), _NOT_LINT),
    Dependency("cmake", "make plugins, torch-ops", "apt install cmake", _program("cmake"), _CPU),
    Dependency(
        "nvcc",
        "make plugins, torch-ops",
        "install the CUDA toolkit (developer.nvidia.com/cuda-downloads), its bin on the PATH",
        _nvcc,
        _CPU,
    ),
    Dependency(
        "gpu",
        "make test-gpu, the cuda-graph and trt runners",
        "an NVIDIA GPU whose driver answers nvidia-smi",
        _gpu,
        _CPU,
    ),
    Dependency(
        "tensorrt-headers",
        "make plugins",
        "git clone --depth 1 --branch release/10.16 https://github.com/NVIDIA/TensorRT"
        " build/TensorRT && export TENSORRT_ROOT=$PWD/build/TensorRT",
        find_headers,
        _CPU,
    ),
    Dependency(
        "tensorrt",
        "make engine-*, the trt runner",
        "pip install 'tensorrt>=10.12,<12' 'cuda-python>=12.8' (needs an NVIDIA GPU)",
        _package("tensorrt"),
        _CPU + ", and make patch",
    ),
)


def report() -> list[str]:
    """The lines of ``make doctor``."""
    lines = []
    for dependency in DEPENDENCIES:
        found = dependency.find()
        mark, remark = ("✓", found) if found else ("✗", f"get it: {dependency.install}")
        lines.append(f"{mark} {dependency.name:<18} {dependency.purpose:<46} {remark}")
    return lines


def require(names: list[str]) -> None:
    """Do nothing where all of ``names`` are found.

    Raises:
        UserError: one is missing; the message says how to get it and what works without.
    """
    for dependency in DEPENDENCIES:
        if dependency.name in names and not dependency.find():
            searched = ""
            if dependency.name == "tensorrt-headers":
                searched = f" (no {HEADER} in {', '.join(map(str, header_folders()))})"
            works = f"; works without it: {dependency.without}" if dependency.without else ""
            raise UserError(
                f"{dependency.name} is missing{searched}, which {dependency.purpose} need; "
                f"get it: {dependency.install}{works}"
            )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m trt_code.doctor", description=__doc__)
    parser.add_argument(
        "--require",
        nargs="+",
        metavar="NAME",
        choices=[dependency.name for dependency in DEPENDENCIES],
        help="check these alone; exit status 2 if one is missing",
    )
    arguments = parser.parse_args(argv)
    if arguments.require:
        require(arguments.require)
    else:
        print("\n".join(report()))


if __name__ == "__main__":
    run(main)
