"""Write requirements/*.lock: the exact versions of what pyproject.toml asks for.

Run it with `make lock` after changing a dependency. pip does the resolving (`--dry-run --report`);
nothing is installed. The GPU libraries that some builds of PyTorch need are left out, because each
PyTorch names the exact versions it wants itself.
"""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
EXTRAS = ("train", "int8", "dev", "download")
GPU_LIBRARIES = ("nvidia-cu", "nvidia-nccl", "nvidia-nv", "triton", "cuda-")


def resolve(extras: str) -> dict[str, str]:
    """Name to version of everything that the project with ``extras`` needs, itself left out."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--report", "-", str(FOLDER.parent) + extras]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    packages = {
        item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"]
        for item in report["install"]
    }
    del packages["lite-transformer-trt"]
    # A local build such as 2.13.0+cpu is the same release; which build is the index's affair.
    return {
        name: version.split("+")[0]
        for name, version in sorted(packages.items())
        if not name.startswith(GPU_LIBRARIES)
    }


def main() -> None:
    base = resolve("")
    write("base", "", base)
    for extra in EXTRAS:
        more = dict(resolve(f"[{extra}]").items() - base.items())
        write(extra, f"[{extra}]", more, "-r base.lock")


def write(lock: str, extras: str, packages: dict[str, str], *head: str) -> None:
    """Write ``requirements/<lock>.lock``."""
    lines = [f"# Written by `make lock` from pyproject.toml{extras}; do not edit.", *head]
    lines += [f"{name}=={version}" for name, version in sorted(packages.items())]
    (FOLDER / f"{lock}.lock").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
