"""``make doctor``: lists which of the project's dependencies are installed, and how to get the others.

Prints one line per dependency. The Makefile calls ``--require NAME`` before a target that needs more than
the base. This prints nothing if the dependency is found, else one line, with exit status 2. The program
needs only the standard library, so that it runs before anything is installed.
"""

import importlib.metadata
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from train_model.cli import Parser, UserError, run
from trt_code.engine.gpu import installed_gpus
from trt_code.engine.tensorrt_api import FULL, RTX, Family, choose_family, serves
from trt_code.native.library import find_compiler, has_compiler

HEADER = "NvInferVersion.h"
HEADER_FOLDERS = (
    "build/TensorRT/include",  # make headers
    "/usr/include/x86_64-linux-gnu",
    "/usr/include/aarch64-linux-gnu",
    "/usr/include",
    "/usr/local/tensorrt/include",
)


@dataclass(frozen=True)
class Dependency:
    """A dependency of some targets.

    Attributes:
        name: its name for ``--require``.
        purpose: the targets or files that need it.
        install: the command that installs it, or one sentence on how to get it.
        find: returns its version or path, or None if it is missing.
        without: what works without it; empty if nothing does.
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


def find_nvcc() -> str | None:
    """Return the CUDA compiler: ``CUDACXX``, the one on the PATH, or the one from pip's packages."""
    packages = [
        Path(sysconfig.get_paths()["purelib"]),
        *Path(".venv/lib").glob("python*/site-packages"),
    ]
    packaged = (folder.resolve() / "nvidia" / "cu13" / "bin" / "nvcc" for folder in packages)
    names = (os.environ.get("CUDACXX") or "nvcc", *packaged)
    return next(filter(None, map(shutil.which, names)), None)


def _compiler() -> str | None:
    return " ".join(find_compiler()) if has_compiler() else None


def _python() -> str | None:
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return ".".join(map(str, sys.version_info[:3])) if supported else None


def _gpu() -> str | None:
    gpus = installed_gpus()
    if not gpus:
        return None
    number = f" ({len(gpus)} in all)" if len(gpus) > 1 else ""
    served = "" if serves(gpus[0]) else ", which TensorRT RTX does not serve (full TensorRT: yes)"
    return f"{gpus[0]}{number}{served}"


def _tensorrt(family: Family) -> Callable[[], str | None]:
    def find() -> str | None:
        if not family.is_installed:
            return None
        versions = (_package(name)() for name in PACKAGES[family.name])
        return next(filter(None, versions), "installed without a package")

    return find


def _any_tensorrt() -> str | None:
    family = choose_family()
    return family.title if family.is_installed else None


def header_folders() -> list[Path]:
    """Return the folders to search for TensorRT's headers, in order."""
    roots = filter(None, (os.environ.get("TENSORRT_ROOT"), os.environ.get("TENSORRT_HOME")))
    return [Path(root) / "include" for root in roots] + [Path(folder) for folder in HEADER_FOLDERS]


def find_headers() -> str | None:
    """Return TensorRT's version and the folder of its headers, or None if there are no headers."""
    for folder in header_folders():
        if (folder / HEADER).is_file():
            return f"{header_version(folder)} in {folder}"
    return None


def header_version(folder: Path) -> str:
    """Return the release of the headers in ``folder``, such as 11.1."""
    text = (folder / HEADER).read_text(errors="replace")
    numbers = [
        re.search(rf"#define (?:NV_TENSORRT_{part}|TRT_{part}_ENTERPRISE) (\d+)", text)
        for part in ("MAJOR", "MINOR")
    ]
    return ".".join(number[1] for number in numbers if number)


# Packages to show with their versions.
PACKAGES = {"rtx": ["tensorrt-rtx"], "full": ["tensorrt", "tensorrt-cu13", "tensorrt-cu12"]}
_ENV = "make env"
_NOT_LINT = "every target but lint"
_CPU = "make bench, eval, translate and test"
DEPENDENCIES = (
    Dependency("python", "everything", "install Python 3.11, 3.12 or 3.13", _python),
    Dependency("make", "everything", "apt install make", _program("make", "gmake")),
    Dependency("c++", "the runner native, fairseq's build", "apt install g++", _compiler),
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
    Dependency(
        "ray",
        "make translate-corpus, distill --ray",
        "make translate-corpus, or pip install 'ray[data]'",
        _package("ray"),
        "every target but these",
    ),
    Dependency("pytest", "make test", _ENV, _package("pytest"), "every target but test"),
    Dependency("ruff", "make lint", _ENV, _package("ruff"), _NOT_LINT),
    Dependency("clang-format", "make lint", _ENV, _package("clang-format"), _NOT_LINT),
    Dependency("cmake", "make plugins, torch-ops", "apt install cmake", _program("cmake"), _CPU),
    Dependency(
        "nvcc",
        "make plugins, torch-ops",
        "make nvcc (CUDA 13.0 from PyPI, 271 MB, under NVIDIA's licence), or install the CUDA toolkit "
        "(developer.nvidia.com/cuda-downloads), its bin on the PATH",
        find_nvcc,
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
        "make headers (1 MB from https://github.com/NVIDIA/TensorRT), or set TENSORRT_ROOT",
        find_headers,
        _CPU,
    ),
    Dependency(
        "tensorrt",
        "make engine-*",
        f"make tensorrt ({RTX.title}), or {FULL.install} (the full TensorRT, which needs its GPU)",
        _any_tensorrt,
        _CPU + ", and make patch",
    ),
    Dependency(
        "tensorrt-rtx",
        "engines without a GPU; GPUs 7.5 to 8.9 and 12.x",
        "make tensorrt (95 MB, under NVIDIA's licence)",
        _tensorrt(RTX),
        _CPU + ", and make patch",
    ),
    Dependency(
        "tensorrt-full",
        "engines on and for the GPU here, 9.0 and 10.0 too",
        FULL.install,
        _tensorrt(FULL),
        _CPU + ", and make patch",
    ),
    Dependency(
        "cuda-python",
        "the trt runners",
        "pip install cuda-python",
        _package("cuda-python"),
        _CPU + ", and make engine-*",
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
    """Check that all of ``names`` are installed.

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
    parser = Parser(prog="python -m trt_code.doctor", description=__doc__)
    parser.add_argument(
        "--require",
        nargs="+",
        metavar="NAME",
        choices=[dependency.name for dependency in DEPENDENCIES],
        help="check these alone; exit status 2 if one is missing",
    )
    parser.add_argument(
        "--find", metavar="NAME", choices=["nvcc"], help="print where it is, for the Makefile"
    )
    arguments = parser.parse_args(argv)
    if arguments.find:
        print(find_nvcc() or "")
    elif arguments.require:
        require(arguments.require)
    else:
        print("\n".join(report()))


if __name__ == "__main__":
    run(main)
