"""A command with closed, broken or ASCII streams, bad disks and Ctrl-C; the slow tests run every command."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from train_model.cli import UserError
from trt_code.stress import surroundings
from trt_code.stress.surroundings import COMMANDS, HOW, ROOT, Command, Room, trials, undisturbed

DISKS = ("read-only", "full")
# these run commands themselves
OTHERS = {"trt_code.stress.mistreat", "trt_code.stress.surroundings"}
# Mounting disks needs root and a kernel that lets this process make namespaces.
HAS_DISKS = os.geteuid() == 0 and not subprocess.run(["unshare", "--mount", "true"]).returncode


def run(names, times=1):
    ways = [way for way in HOW if HAS_DISKS or way not in DISKS]
    options = ["--only", ",".join(names), "--how", ",".join(ways), "--times", str(times)]
    done = subprocess.run(
        [sys.executable, "-m", "trt_code.stress.surroundings", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith("| `")]
    cells = f" 0 of {times} |" * len(ways)
    for name, row in zip(names, rows, strict=True):
        assert row in (f"| `{name}` | {end} |{cells}" for end in ("done", "refused"))


def test_a_command_in_every_way():
    run(["native"])


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_in_every_way(name):
    run([name])


def test_every_program_is_among_the_commands():
    programs = set()
    for package in ("train_model", "onnx_export", "trt_code"):
        for path in (ROOT / package).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if '__name__ == "__main__"' in path.read_text() and "tests" not in path.parts:
                programs.add(module)
    programs.discard("trt_code.package.lite_transformer_trt.__main__")
    modules = {command.module for command in COMMANDS.values()}
    assert modules == programs - OTHERS
    source = (ROOT / "trt_code/package/lite_transformer_trt/__main__.py").read_text()
    console = re.findall(r'^    "[a-z-]+": \("([a-z_.]+)", ', source, re.MULTILINE)
    assert len(console) > 10
    assert set(console) <= modules


def writes_on(arguments):
    """Writes a new file under its final name, piece by piece."""
    path = Path(arguments[0], "a.json")
    with (path.with_name("b.json") if path.exists() else path).open("w") as file:
        file.write("[")
        file.flush()
        file.write("1," * 50_000 + "1]")


def raises(arguments):
    sys.stdout.write("fünf")
    sys.stdout.flush()
    raise ValueError


def leaves_a_draft(arguments):
    if sys.stdin is None:  # a hidden file that the command always leaves is not a fault
        Path(arguments[0], ".draft").touch()


def says_nothing(arguments):
    raise SystemExit(2)


def answers_in_ascii(arguments):
    print("fünf" if sys.stdin.encoding == "utf-8" else "fuenf")


@pytest.mark.parametrize(
    ("main", "how", "fault"),
    [
        (raises, "stdin-closed", "fails undisturbed"),
        (leaves_a_draft, "stdin-closed", ".draft is left"),
        (answers_in_ascii, "ascii", "another output"),
        (says_nothing, "stdin-closed", "0 lines of errors"),
        (lambda arguments: None, "stdout-full", None),
        pytest.param(
            writes_on,
            "full",
            "b.json: JSONDecodeError",
            marks=pytest.mark.skipif(not HAS_DISKS, reason="no disk can be mounted"),
        ),
    ],
)
def test_a_command_that_is_wrong_is_found(monkeypatch, tmp_path, main, how, fault):
    room = Room.__new__(Room)
    room.folder, room.out, room.from_disk = tmp_path, tmp_path / "out", tmp_path / "from_disk"
    room.paths = {"out": room.out}
    room.out.mkdir()
    real = importlib.import_module
    fake = SimpleNamespace(main=main)
    monkeypatch.setattr(
        surroundings.importlib, "import_module", lambda name: fake if name == "fake" else real(name)
    )
    monkeypatch.setitem(COMMANDS, "fake", Command("fake", "{out}"))
    if fault == "fails undisturbed":
        with pytest.raises(UserError, match=fault):
            undisturbed(room, "fake")
        return
    ((way, found),) = trials(room, "fake", undisturbed(room, "fake"), [how], 1, 1)
    assert way == how
    assert bool(found) == bool(fault)
    assert not fault or any(line.startswith(fault) for line in found)
