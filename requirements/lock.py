"""Write requirements/*.lock: exact versions and hashes of the packages that pyproject.toml requires.

Run it with `make lock` after changing a dependency. uv resolves for every Python and system at once
and records the hashes of every file of a release. pip installs only what the locks name.
PyTorch comes in two builds. cpu.lock has the build for CPUs, which pip installs if it is given PyTorch's
own index. cuda.lock has the libraries that the build on PyPI needs.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

FOLDER = Path(__file__).parent
PROJECT = FOLDER.parent / "pyproject.toml"
EXTRAS = ("train", "int8", "ray", "rivals", "dev", "download")
# extras that do not depend on the other packages
ON_NOTHING = ("tensorrt", "nvcc", "build", "audit", "lock", "engines", "triton")
GPU_LIBRARIES = ("nvidia-", "triton", "cuda-")
PYPI = "https://pypi.org/simple"
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"
OPTIONS = ["--python-version=3.11", "--fork-strategy=fewest", "--no-header", "--no-annotate"]


def resolve(uv: str, *wanted: str, text: str = "", index: str = PYPI) -> dict[str, str]:
    """Name to entry (version, marker, hashes) of all that the arguments of uv, or ``text``, ask for."""
    command = [uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes", *OPTIONS]
    command += ["--default-index", index, *(wanted or ["-"])]
    reply = subprocess.run(command, input=text, check=True, stdout=subprocess.PIPE, text=True)
    entries = re.findall(r"^\S.*(?:\n .*)*", reply.stdout, re.M)
    return {
        re.split("[=; ]", entry, maxsplit=1)[0]: entry
        for entry in entries
        if "== 'emscripten'" not in entry  # Python in a browser
    }


def main() -> None:
    """Lock with the uv that the first argument names."""
    uv = sys.argv[1]
    extras = [f"--extra={extra}" for extra in EXTRAS]
    entries = resolve(uv, str(PROJECT), *extras)
    base = resolve(uv, str(PROJECT)).keys()
    gpu = {name for name in base if name.startswith(GPU_LIBRARIES)}
    write("base", "", {name: entries[name] for name in base - gpu})
    write("cuda", "'s PyTorch", {name: entries[name] for name in gpu})
    version = re.match(r"torch==([^\s;]+)", entries["torch"])[1]
    write("cpu", "'s PyTorch", {"torch": cpu_build(uv, version)})
    for extra in EXTRAS:
        more = resolve(uv, str(PROJECT), f"--extra={extra}").keys() - base
        write(extra, f"[{extra}]", {name: entries[name] for name in more}, "-r base.lock")
    lists = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    for extra in ON_NOTHING:
        write(extra, f"[{extra}]", resolve(uv, "-", text="\n".join(lists[extra])))
    fairseq = (FOLDER / "fairseq.lock").read_text()
    pin = re.search(r"^fairseq==\S+", fairseq, re.M)[0]
    entry = resolve(uv, "-", "--no-deps", text=pin)["fairseq"]
    put("fairseq", fairseq[: fairseq.index(pin)] + entry + "\n")


def cpu_build(uv: str, version: str) -> str:
    """The entry of PyTorch's build for CPUs, which PyPI does not have.

    Where its index is out of reach, the present lock's stays if it is of the same version.
    """
    try:
        return resolve(uv, "-", "--no-deps", text=f"torch=={version}+cpu", index=CPU_BUILDS)[
            "torch"
        ]
    except subprocess.CalledProcessError:
        before = (FOLDER / "cpu.lock").read_text()
        kept = re.search(rf"^torch=={re.escape(version)}\+cpu.*(?:\n .*)*", before, re.M)
        if not kept:
            sys.exit(f"error: {CPU_BUILDS} is out of reach, and cpu.lock is of another version")
        print(f"warning: {CPU_BUILDS} is out of reach; cpu.lock stays as it is", file=sys.stderr)
        return kept[0]


def write(lock: str, asked_by: str, entries: dict[str, str], *head: str) -> None:
    """Write ``requirements/<lock>.lock``."""
    lines = [f"# Written by `make lock` from pyproject.toml{asked_by}; do not edit.", *head]
    lines += [entries[name] for name in sorted(entries)]
    put(lock, "\n".join(lines) + "\n")


def put(lock: str, text: str) -> None:
    """Replace ``requirements/<lock>.lock`` atomically; a kill leaves the old file."""
    temporary = FOLDER / f".{lock}.lock.tmp"
    temporary.write_text(text)
    temporary.replace(FOLDER / f"{lock}.lock")


if __name__ == "__main__":
    main()
