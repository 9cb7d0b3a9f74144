"""Wheels that a test reads without installing them (they clash with, or do not load in, our packages)."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "build/test-wheels"


def fetch_wheel(requirement: str) -> Path:
    """Download ``name==version`` once, unpack it, and return the folder.

    Skips the test, saying why, where the package index cannot be reached or has no such wheel.
    """
    folder = FOLDER / requirement.replace("==", "-")
    if folder.is_dir():
        return folder
    download = folder.with_name(folder.name + ".download")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ]
    try:
        reply = subprocess.run(
            [*command, "--retries=1", "--dest", download, requirement],
            capture_output=True,
            text=True,
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip download {requirement} took more than two minutes")
    if reply.returncode:
        pytest.skip(f"pip download {requirement}: {reply.stderr.strip().splitlines()[-1]}")
    (wheel,) = download.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(download / "unpacked")
    (download / "unpacked").rename(folder)
    wheel.unlink()
    download.rmdir()
    return folder
