"""The next run repairs the packages that a killed pip or a full disk left incomplete; two runs take turns."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

INSTALL = Path(__file__).parents[3] / "requirements" / "install.sh"
FILES = 3000  # large enough for a kill to interrupt pip
TEXT = b"whole = True\n" * 300


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of an empty environment that has pip."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def lock(tmp_path_factory) -> Path:
    """Return a lock of one package, with the wheel in the same folder. The wheel has its metadata before its
    modules, so that a partial package counts as installed."""
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
    return subprocess.Popen(
        ["sh", INSTALL, python, lock], env=offline(lock.parent), start_new_session=True
    )


def install(*arguments: str | Path, before: str = "") -> subprocess.CompletedProcess:
    """Run the script after a shell command; the last argument is the lock, in its wheel's folder."""
    return subprocess.run(
        ["sh", "-c", f'{before} exec sh "$@"', "sh", INSTALL, *arguments],
        env=offline(Path(arguments[-1]).parent),
        capture_output=True,
        text=True,
    )


def offline(wheels: Path) -> dict[str, str]:
    """Return an environment in which pip knows only the wheels in a folder."""
    return os.environ | {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_NO_COMPILE": "1",
    }


def modules(python: Path) -> list[Path]:
    return list(python.parents[1].glob("lib/python*/site-packages/many/m*.py"))


def test_a_package_that_a_killed_pip_left_incomplete_is_completed(python, lock):
    process = start(python, lock)
    while process.poll() is None and not modules(python):
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < len(modules(python)) < FILES, "the kill came too late to show anything"
    assert start(python, lock).wait() == 0
    assert len(modules(python)) == FILES
    assert all(path.read_bytes() == TEXT for path in modules(python))


@pytest.mark.parametrize("options", [[], ["--if-any"]], ids=["", "if any"])
def test_a_package_that_met_a_full_disk_is_completed(python, lock, options):
    """A limit on file sizes stands in for a full disk: pip gets the same error, without root."""
    for installed in python.parents[1].glob("lib/python*/site-packages/many*"):
        shutil.rmtree(installed)
    reply = install(*options, python, lock, before=f"ulimit -f {len(TEXT) // 512 - 1};")
    assert reply.returncode == 2
    lines = reply.stderr.strip().splitlines()
    assert lines[0].startswith("ERROR: Could not install packages due to an OSError: [Errno 27]")
    assert lines[-1] == f"error: {lock} could not be installed; what pip says about it is above"
    assert "Traceback" not in reply.stderr
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


def test_a_failure_is_passed_on(python, tmp_path):
    assert start(python, wrong_hash(tmp_path, 2)).wait() == 2


@pytest.fixture
def empty(python) -> Path:
    """The interpreter, after the package has been removed."""
    for installed in python.parents[1].glob("lib/python*/site-packages/many*"):
        shutil.rmtree(installed)
    return python


def wrong_hash(folder: Path, version: int) -> Path:
    """A lock of the package with a hash that no file has."""
    path = folder / "wrong.lock"
    path.write_text(f"many=={version} --hash=sha256:{'0' * 64}\n")
    return path


def test_a_lock_that_may_be_missing_is_passed_over(empty, lock, tmp_path):
    reply = install("--if-any", empty, wrong_hash(tmp_path, 2), lock)
    assert (reply.returncode, reply.stderr) == (0, "")
    assert len(modules(empty)) == FILES


def test_a_wrong_hash_is_never_passed_over(empty, lock, tmp_path):
    reply = install("--if-any", empty, wrong_hash(tmp_path, 1), lock)
    assert reply.returncode == 2
    assert "DO NOT MATCH THE HASHES" in reply.stderr
    assert not modules(empty)


@pytest.fixture
def folder(tmp_path):
    """A folder in which environment.sh makes its environment, and a Python that fails while ``broken`` exists
    and leaves an incomplete environment."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        'mkdir -p "$3/bin"; echo part >>"$3/part"\n'
        "[ ! -e broken ] || { echo no space left >&2; exit 1; }\n"
        'touch "$3/bin/pip"; chmod +x "$3/bin/pip"\n'
    )
    python.chmod(0o755)
    return tmp_path


def make_environment(folder: Path) -> subprocess.CompletedProcess:
    script = INSTALL.with_name("environment.sh")
    command = ["sh", script, folder / "python"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_an_environment_that_met_a_full_disk_is_made_again(folder):
    (folder / "broken").touch()
    reply = make_environment(folder)
    assert reply.returncode == 2
    assert reply.stderr.splitlines()[-1].startswith("error: .venv could not be made; is there room")
    assert sorted(path.name for path in folder.iterdir()) == ["broken", "python"]
    (folder / "broken").unlink()
    assert make_environment(folder).returncode == 0
    assert (folder / ".venv/part").read_text() == "part\n"
    assert make_environment(folder).returncode == 0
    assert (folder / ".venv/part").read_text() == "part\n"


def test_an_environment_that_a_kill_left_incomplete_is_made_again(folder):
    (folder / ".venv").mkdir()
    (folder / ".venv/part").write_text("old\n")
    (folder / ".venv.making").touch()
    assert make_environment(folder).returncode == 0
    assert (folder / ".venv/part").read_text() == "part\n"
    assert not (folder / ".venv.making").exists()


def test_an_environment_of_somebody_else_is_completed(folder):
    (folder / ".venv").mkdir()
    (folder / ".venv/mine").touch()
    (folder / "broken").touch()
    assert make_environment(folder).returncode == 2
    assert (folder / ".venv/mine").exists()
    (folder / "broken").unlink()
    assert make_environment(folder).returncode == 0
    assert (folder / ".venv/mine").exists()
