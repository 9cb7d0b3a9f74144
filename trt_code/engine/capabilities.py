"""The GPUs that a plan of TensorRT for RTX is built for, by compute capability."""

import argparse
import re
from types import ModuleType
from typing import Any

from train_model.cli import UserError
from trt_code.engine.gpu import installed_gpus

# The default of TensorRT for RTX: every GPU that it supports from Ampere on.
PORTABLE = ("8.0", "8.6", "8.9", "12.x")
CURRENT = "current"


def capabilities_argument(text: str) -> tuple[str, ...]:
    """Parse ``"8.6,8.9"``, ``"portable"`` or ``"current"`` for argparse."""
    if text == "portable":
        return PORTABLE
    capabilities = tuple(part.strip() for part in text.split(","))
    if text != CURRENT and not all(re.fullmatch(r"\d+\.\d", part) for part in capabilities):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of compute capabilities; write portable, current or e.g. 8.6,8.9"
        )
    return tuple(dict.fromkeys(capabilities))


def resolve_current(capabilities: tuple[str, ...]) -> tuple[str, ...]:
    """Replace ``current`` by the compute capability of this machine's first GPU.

    Raises:
        UserError: there is no GPU.
    """
    if capabilities != (CURRENT,):
        return capabilities
    if not installed_gpus():
        raise UserError(
            "--compute-capability current needs a GPU here; name one, e.g. 8.6 for an A10"
        )
    return (installed_gpus()[0].compute_capability,)


def set_capabilities(trt: ModuleType, config: Any, capabilities: tuple[str, ...]) -> None:
    """Set the compute capabilities that the builder of TensorRT for RTX builds for.

    Raises:
        UserError: it does not support one of them.
    """
    if capabilities == PORTABLE:
        return
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        wanted = getattr(trt.ComputeCapability, "SM" + capability.replace(".", ""), None)
        if wanted is None or not config.set_compute_capability(wanted, index):
            raise UserError(
                f"TensorRT RTX {trt.__version__} does not build for compute capability {capability}, "
                f"only for {' '.join(_served(trt))}; for another GPU install the full TensorRT there "
                "(pip install tensorrt-cu13 cuda-python) and build with TENSORRT=full"
            )


def _served(trt: ModuleType) -> list[str]:
    members = (re.fullmatch(r"SM(\d+)(\d)", name) for name in dir(trt.ComputeCapability))
    pairs = sorted((int(found[1]), found[2]) for found in members if found)
    return [f"{major}.{minor}" for major, minor in pairs]
