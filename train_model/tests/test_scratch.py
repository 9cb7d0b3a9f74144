"""Writers that are killed: the next writer of the same file removes what they left, and nothing else."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from train_model.cli import UserError, atomic_path
from train_model.file_sets import replace_together, settle
from train_model.scratch import PENDING, scratch_folder

WRITE = """
import sys
from train_model.cli import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    sys.stdin.read()
"""
NAMES = ["odd [*] name?.txt", "x" * 255, "ä" * 127]


def start_writer(target: Path) -> tuple[subprocess.Popen, Path]:
    """Start a process that writes ``target`` and waits; return it and the file it writes to."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, target],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, Path(process.stdout.readline().removesuffix("\n"))


@pytest.mark.parametrize("name", NAMES)
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path, name):
    process, temporary = start_writer(tmp_path / name)
    assert temporary.read_text() == "half"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert temporary.exists()
    with atomic_path(tmp_path / name) as new:
        assert not temporary.exists()
        new.write_text("whole")
    assert [*tmp_path.iterdir()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "whole"


def test_a_running_writer_and_other_names_are_left_alone(tmp_path):
    target = tmp_path / "model.onnx"
    others = [tmp_path / name for name in (".model.onnx.settings", ".other.partial-abcdefgh")]
    for folder in others:
        folder.mkdir()
    process, temporary = start_writer(target)
    with atomic_path(target) as second:
        assert temporary.read_text() == "half"
        second.write_text("second")
    assert target.read_text() == "second"
    process.communicate("")  # ends its work
    assert target.read_text() == "half"
    assert sorted(tmp_path.iterdir()) == sorted([target, *others])


def test_drafts_with_a_record_are_kept_until_they_are_renamed(tmp_path):
    target = tmp_path / "encoder.onnx"
    abandoned = tmp_path / ".encoder.onnx.partial-abcdefgh"
    abandoned.mkdir()
    (abandoned / target.name).write_text("new")
    record = tmp_path / f"{PENDING}1"
    record.write_text(json.dumps({f"{abandoned.name}/{target.name}": target.name}))
    with scratch_folder(target):
        assert (abandoned / target.name).exists()
    settle(tmp_path)
    assert [*tmp_path.iterdir()] == [target]


def test_files_in_a_relative_folder_are_replaced_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = "model.encoder.onnx", "model.onnx"
    finals = [Path("build") / name for name in names]
    with scratch_folder(finals[0]) as folder:
        for name in names:
            (folder / name).write_text(name)
        replace_together({folder / final.name: final for final in finals})
    assert [final.read_text() for final in finals] == list(names)
    assert sorted(Path("build").iterdir()) == finals


def test_an_interruption_before_the_record_has_its_name_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    def write() -> None:
        with scratch_folder(tmp_path / "a") as folder:
            (folder / "a").write_text("new")
            replace_together({folder / "a": tmp_path / "a"})

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write()
    assert not [*tmp_path.iterdir()]


def test_an_interruption_while_a_folder_is_removed_leaves_nothing(tmp_path, monkeypatch):
    real = os.rmdir

    def interrupted(*arguments, **options):
        monkeypatch.setattr(os, "rmdir", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rmdir", interrupted)
    with pytest.raises(KeyboardInterrupt), scratch_folder(tmp_path / "a") as folder:
        (folder / "new").mkdir()
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), atomic_path(tmp_path / "file" / "name"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write"), atomic_path(tmp_path / "name"):
        pass
