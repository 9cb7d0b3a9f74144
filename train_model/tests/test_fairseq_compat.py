"""Corrections of fairseq beyond its import."""

import shutil

import pytest

from train_model import fairseq_compat
from train_model.cli import UserError

pytestmark = pytest.mark.fairseq


@pytest.fixture
def path_manager():
    fairseq_compat.prepare()
    from fairseq.file_io import PathManager

    return PathManager


def test_a_copy_that_fails_leaves_what_was_there(path_manager, tmp_path, monkeypatch):
    source, target = tmp_path / "checkpoint1.pt", tmp_path / "checkpoint_last.pt"
    source.write_bytes(b"new" * 1000)
    target.write_bytes(b"old")

    def half(src, dst):
        dst.write_bytes(source.read_bytes()[:1000])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", half)
        with pytest.raises(UserError, match="No space left"):
            path_manager.copy(str(source), str(target), overwrite=True)
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name, target.name]
    assert path_manager.copy(str(source), str(target), overwrite=True)
    assert target.read_bytes() == source.read_bytes()


def test_a_copy_that_may_not_overwrite_does_not(path_manager, tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    assert not path_manager.copy(str(source), str(target))
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(
    "content",
    [b"root:x:0:0\n", b"", b"PK\x03\x04 and no archive", b"PK\x03\x04" * 5000, b"\x80\x02N."],
)
def test_a_file_that_is_no_checkpoint_is_one_line(content, path_manager, tmp_path):
    from fairseq import checkpoint_utils

    path = tmp_path / "restored.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"restored\.pt is damaged or no checkpoint of a training"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
