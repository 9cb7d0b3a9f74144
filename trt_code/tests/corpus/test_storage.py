"""Files of a corpus by path and URL, and writing that leaves a whole file or none."""

import contextlib
import errno
import io
import pickle

import pytest

pytest.importorskip("pyarrow", reason="Ray is not installed, which brings pyarrow")
from fsspec.implementations.local import LocalFileSystem

from train_model.cli import UserError
from trt_code.corpus.storage import COMPRESSIONS, Folder, cannot_write, find, locate

pytestmark = pytest.mark.ray


@pytest.fixture(params=["path", "file", "memory"])
def url(request, tmp_path):
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    return f"file://{tmp_path}/c" if request.param == "file" else str(tmp_path / "c")


def test_folders_globs_and_files(url):
    folder = pickle.loads(pickle.dumps(locate(url)))  # as it is sent to another node
    for name in ("b.txt", "a.txt.gz", "sub/c.jsonl", "_manifest/x.json", ".hidden", "sub/.d.txt"):
        with folder.write(name) as file:
            file.write(b"text")
    assert find(url)[1] == ["a.txt.gz", "b.txt", "sub/c.jsonl"]
    assert find(f"{url}/*.txt*")[1] == ["a.txt.gz", "b.txt"]
    place, names = find(f"{url}/s*/*")
    assert names == ["sub/c.jsonl"]
    assert place.read("b.txt") == b"text"
    place, names = find(f"{url}/sub/c.jsonl")
    assert (names, place.read(*names)) == (["c.jsonl"], b"text")
    for missing in (f"{url}/nothing", f"{url}/*.parquet"):
        with pytest.raises(UserError, match=r"no file at .*; give a file, a folder or a glob"):
            find(missing)


class Unbuffered(io.FileIO):
    """A file without a buffer, as Arrow opens one in a bucket; it counts the requested bytes."""

    requests = 0

    def readinto(self, buffer):
        Unbuffered.requests += 1
        return super().readinto(buffer)


class Bucket(LocalFileSystem):
    """A file system whose files have no buffer."""

    cachable = False

    def open(self, path, mode="rb", **options):
        return Unbuffered(path) if mode == "rb" else super().open(path, mode, **options)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".bz2", ".xz"])
def test_lines_are_not_requested_one_by_one(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(Unbuffered, "requests", 0)
    folder = Folder(Bucket(), str(tmp_path), "bucket")
    lines = [f"line {number}\n".encode() for number in range(10_000)]
    compressed = COMPRESSIONS[suffix] if suffix else lambda file, _: contextlib.nullcontext(file)
    with folder.write(f"a{suffix}") as file, compressed(file, "wb") as text:
        text.writelines(lines)
    with folder.open(f"a{suffix}", suffix) as file:
        assert list(file) == lines
    assert 0 < Unbuffered.requests < 20


def test_a_file_is_written_whole_or_not_at_all(url):
    folder = locate(url)
    with folder.write("x/a") as file:
        file.write(b"old")
    before = folder.identity("x/a")

    def fail():
        with folder.write("x/a") as file:
            file.write(b"new")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert folder.read("x/a") == b"old"
    assert len(folder.fs.find(folder.path)) == 1
    assert folder.identity("x/a") == before
    with folder.write("x/a") as file:
        file.write(b"newer")
    assert folder.read("x/a") == b"newer"
    assert folder.identity("x/a") != before
    folder.remove("x")
    folder.remove("x")
    assert (folder.read("x/a"), folder.size("x/a")) == (None, None)


def test_unusable_paths_are_reported_in_one_line():
    for url, reason in (("", "the path is empty"), ("nothere://a", "cannot use nothere://a: ")):
        with pytest.raises(UserError, match=reason):
            locate(url)
    full = cannot_write("out", OSError(errno.ENOSPC, "No space left on device"))
    assert full.startswith("cannot write out: No space left on device; free some space; ")


@pytest.fixture
def bucket(monkeypatch):
    """The URL of a folder in a bucket of a stand-in for S3."""
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    from pyarrow.fs import FileSystem

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    FileSystem.from_uri("s3://corpora?allow_bucket_creation=true")[0].create_dir("corpora")
    yield "s3://corpora/crawl"
    running.stop()


def test_a_bucket(bucket):
    test_folders_globs_and_files(bucket)
    test_a_file_is_written_whole_or_not_at_all(f"{bucket}.de")
