"""Archives that are damaged, without end, or begin again at a member of negative size."""

import tarfile

import pytest

from train_model.cli import UserError
from train_model.data import download, transfer
from train_model.data.corpora import raw_text
from train_model.model_pieces import unpacked


def header(name, size):
    """Return the header of a member; a negative size is in the GNU form of numbers."""
    member = tarfile.TarInfo(name)
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size.to_bytes(12, "big", signed=True) if size < 0 else b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def archive(path, content):
    """Write a compressed tar archive of these bytes."""
    import gzip
    import lzma

    compress = lzma.compress if path.suffix == ".xz" else gzip.compress
    path.write_bytes(compress(content + bytes(1024)))
    return path


def read(path):
    transfer.check_archive(path)


def read_lines(path):
    for _, lines in raw_text.archived_lines(path, ["text.en", "text.de"]):
        list(lines)


def unpack(path):
    download._unpack(path, path.parent)


def import_from(path):
    with unpacked(path):
        pass


READERS = (read, read_lines, unpack, import_from)


@pytest.mark.parametrize("reader", READERS)
def test_a_member_of_negative_size_does_not_begin_again(tmp_path, reader):
    path = archive(tmp_path / "a.tar.gz", header("text.en", -512) * 2)
    with pytest.raises(UserError, match=r"cannot be unpacked .*negative|damaged archive.*negative"):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_an_archive_that_unpacks_to_any_size(tmp_path, monkeypatch, reader):
    monkeypatch.setattr(transfer, "MOST_UNPACKED", 1000)
    path = archive(tmp_path / "a.tar.gz", header("text.en", 1001) + b"x" * 1024)
    with pytest.raises(UserError, match="more than 1000 bytes"):
        reader(path)


@pytest.mark.parametrize("kind", [".gz", ".xz"])
def test_a_damaged_compression(tmp_path, kind):
    path = archive(tmp_path / f"a.tar{kind}", header("model.pt", 99_840) + bytes(range(256)) * 390)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.tar.* is a damaged archive"):
        import_from(path)


def test_a_line_of_an_archive_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("train_model.data.files.MAX_LINE", 100)
    path = archive(tmp_path / "a.tar.gz", header("text.en", 512) + b"x" * 512)
    with pytest.raises(UserError, match=r"text.en"):
        read_lines(path)
