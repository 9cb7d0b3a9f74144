"""Describes the machine and software of a measurement, for the header of every table."""

import datetime
import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from trt_code.devices import processors

PACKAGES = ("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")


def describe(device: str, threads: int) -> dict[str, str]:
    """Return date, commit, command, processor, GPU, system and versions, as a mapping of name to text.

    Args:
        device: "cpu" or "cuda"; the GPU is named for the latter.
        threads: CPU threads of each runner.
    """
    facts = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _output("git", "describe", "--always", "--dirty") or "not a git checkout",
        "command": "python -m " + shlex.join([_module(), *sys.argv[1:]]),
        "cpu": f"{_cpu()}, {processors()} processors, {threads} threads used",
    }
    if device == "cuda":
        facts["gpu"] = _gpu()
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    return facts | {"system": platform.platform(), "versions": ", ".join(versions)}


def machine_name(facts: dict[str, str]) -> str:
    """Return the GPU, or the CPU if there is no GPU, from the result of ``describe``."""
    return facts.get("gpu", facts["cpu"])


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else Path(sys.argv[0]).name


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _gpu() -> str:
    import torch

    query = ("--query-gpu=driver_version", "--format=csv,noheader")
    driver = (_output("nvidia-smi", *query) or "unknown").splitlines()[0]
    if not torch.cuda.is_available():  # the runners then say what is missing
        return "no GPU"
    return f"{torch.cuda.get_device_name()}, driver {driver}, CUDA {torch.version.cuda}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    try:
        reply = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return reply.stdout.strip() if reply.returncode == 0 else None
