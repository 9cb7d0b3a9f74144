"""Archives that are damaged, without end, or begin again at a member of negative size."""

import errno
import os
import tarfile

import pytest

from train_model.cli import UserError
from train_model.data import download, transfer
from train_model.data.corpora import raw_text
from train_model.model_pieces import unpacked


def header(name, size, kind=tarfile.REGTYPE):
    """Return the header of a member; a negative size is in the GNU form of numbers."""
    member = tarfile.TarInfo(name)
    member.type = kind
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


def sparse():
    """A sparse file in the form of newer tars."""
    member = tarfile.TarInfo("text.en")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    return member.tobuf(tarfile.PAX_FORMAT)


FILE = header("text.en", 0)
TOO_MUCH = {
    "names": header("x", 1 << 17, tarfile.XHDTYPE) + bytes(1 << 17) + FILE,
    "a long name": header("x", 1 << 17, tarfile.GNUTYPE_LONGNAME) + b"x" * (1 << 17) + FILE,
    "a name of negative length": header("x", -512, tarfile.GNUTYPE_LONGNAME) + FILE,
    "headers of headers": header("x", 0, tarfile.GNUTYPE_LONGNAME) * 3000 + FILE,
    "headers for all": b"".join(
        tarfile.TarInfo.create_pax_global_header({f"key{i}": "value"}) + FILE for i in range(1100)
    ),
    "a sparse file": header("text.en", 0, tarfile.GNUTYPE_SPARSE),
    "a newer sparse file": sparse(),
    "files": FILE * 60,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", TOO_MUCH.values(), ids=TOO_MUCH)
def test_headers_that_would_fill_the_memory(tmp_path, monkeypatch, reader, content):
    monkeypatch.setattr(transfer, "MOST_MEMBERS", 2000 if content.count(FILE) > 1000 else 50)
    path = archive(tmp_path / "a.tar.gz", content)
    with pytest.raises(UserError, match=r"cannot be unpacked|damaged archive") as refused:
        reader(path)
    assert any(why in str(refused.value) for why in ("too long", "sparse", "50 files", "recursion"))


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


def test_a_full_disk_is_not_called_a_damaged_archive(tmp_path, monkeypatch):
    archive = tmp_path / "a.tar"
    (tmp_path / "model.pt").write_bytes(b"whole")
    with tarfile.open(archive, "w") as packed:
        packed.add(tmp_path / "model.pt", "model.pt")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfileobj", full)
    with (
        pytest.raises(UserError, match="No space left on device; TMPDIR can name"),
        unpacked(archive),
    ):
        pass
    assert archive.is_file()
