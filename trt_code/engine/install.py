"""Installs TensorRT for RTX into this Python environment if no TensorRT is here and this machine can use it.

    python -m trt_code.engine.install

The Makefile runs it before it builds an engine. ``TENSORRT=rtx|full|auto`` chooses the family; the full
TensorRT is never installed, since its version belongs to the machine's driver and CUDA.
"""

import importlib
import platform
import subprocess
import sys
from pathlib import Path

from train_model.cli import Parser, UserError, first_line, run
from trt_code.engine.tensorrt_api import FULL, RTX, choose_family, load_tensorrt, require_plugins

REQUIREMENTS = Path(__file__).parents[2] / "requirements"


class WrongHash(UserError):
    """A package is not the one that the lock names; ``--if-any`` does not pass that over."""


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = Parser(prog="python -m trt_code.engine.install", description=first_line(__doc__))
    parser.add_argument(
        "--never", action="store_true", help="only say what is missing and how to get it"
    )
    parser.add_argument(
        "--if-any",
        action="store_true",
        help="exit with status 0 and one line if TensorRT cannot be installed, except for a wrong hash",
    )
    parser.add_argument(
        "--plugins",
        choices=("lite", "none"),
        default="none",
        help="lite: check too that TensorRT reads plugins from ONNX files",
    )
    arguments = parser.parse_args(argv)
    try:
        provide(may_install=not arguments.never)
        if arguments.plugins == "lite":
            importlib.invalidate_caches()  # after an installation
            require_plugins(load_tensorrt())
    except UserError as error:
        if not arguments.if_any or isinstance(error, WrongHash):
            raise
        print(f"no TensorRT engines: {error}", file=sys.stderr)
    return 0


def provide(may_install: bool) -> None:
    """Install the family of TensorRT that this machine should use, unless it is installed.

    Raises:
        WrongHash: a package is not the one of the lock.
        UserError: it is missing and cannot be installed here; the message says how to get it.
    """
    family = choose_family()
    if family.is_installed:
        return
    if family is FULL or not may_install:
        load_tensorrt(family)  # says what is missing and how to get it
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise UserError(
            f"{RTX.title} has packages for Linux on x86-64 alone and this is {platform.system()} on "
            f"{platform.machine()}; the runners torch and ort work without it"
        )
    print(
        f"installing requirements/tensorrt.lock into {sys.prefix}: {RTX.title}, 95 MB, under NVIDIA's "
        "licence (its text: site-packages/tensorrt_rtx-*.dist-info/licenses)",
        file=sys.stderr,
    )
    command = ["sh", REQUIREMENTS / "install.sh", sys.executable, REQUIREMENTS / "tensorrt.lock"]
    reply = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if reply.returncode:
        reason = next(
            (line for line in reply.stderr.splitlines() if line.startswith("ERROR")), "see above"
        )
        if "hashes" in reply.stderr.lower():
            raise WrongHash(
                f"{RTX.title} was not installed: a package is not the one that requirements/tensorrt.lock "
                f"names ({reason}); find out why your package index has another one"
            )
        raise UserError(f"{RTX.title} could not be installed ({reason}); is PyPI in reach?")


if __name__ == "__main__":
    run(main)
