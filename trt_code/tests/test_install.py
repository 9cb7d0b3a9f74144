"""What is left of a killed pip is made whole by the next run; two runs of it take turns."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

INSTALL = Path(__file__).parents[2] / "requirements" / "install.sh"
FILES = 3000  # so many that a kill finds pip at its work
TEXT = b"whole = True\n" * 300


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of an empty environment that has pip."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def lock(tmp_path_factory) -> Path:
    """A lock of one package; its wheel lies beside it. Its description comes before its modules, so that a
    part of it counts as installed."""
    folder = tmp_path_factory.mktemp("wheels")
    wheel = folder / "many-1-py3-none-any.whl"
    facts = {
        "METADATA": "Metadata-Version: 2.1\nName: many\nVersion: 1\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in facts.items():
            archive.writestr(f"many-1.dist-info/{name}", text)
        for number in range(FILES):
            archive.writestr(f"many/m{number}.py", TEXT)
        names = archive.namelist()
        record = "".join(f"{name},,\n" for name in names) + "many-1.dist-info/RECORD,,\n"
        archive.writestr("many-1.dist-info/RECORD", record)
    path = folder / "many.lock"
    path.write_text(f"many==1 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return path


def start(python: Path, lock: Path) -> subprocess.Popen:
    environment = os.environ | {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(lock.parent),
        "PIP_NO_COMPILE": "1",
    }
    command = ["sh", INSTALL, python, lock]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def modules(python: Path) -> list[Path]:
    return list(python.parents[1].glob("lib/python*/site-packages/many/m*.py"))


def test_a_package_that_a_killed_pip_left_in_part_is_made_whole(python, lock):
    process = start(python, lock)
    while process.poll() is None and not modules(python):
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < len(modules(python)) < FILES, "the kill came too late to show anything"
    assert start(python, lock).wait() == 0
    assert len(modules(python)) == FILES
    assert all(path.read_bytes() == TEXT for path in modules(python))


def test_what_was_not_interrupted_is_left_alone(python, lock):
    assert start(python, lock).wait() == 0
    changed = modules(python)[0]
    changed.write_bytes(b"mine = True\n")
    assert start(python, lock).wait() == 0
    assert changed.read_bytes() == b"mine = True\n"


def test_two_at_once_take_turns(python, lock):
    first, second = start(python, lock), start(python, lock)
    assert (first.wait(), second.wait()) == (0, 0)


def test_a_failure_is_passed_on(python, lock, tmp_path):
    wrong = tmp_path / "wrong.lock"
    wrong.write_text(f"many==2 --hash=sha256:{'0' * 64}\n")
    assert start(python, wrong).wait() != 0
    assert not list(python.parents[1].glob("installing-*"))
