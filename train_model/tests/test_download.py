"""``./download.sh`` against a server on the loopback that sends good, short, slow and wrong answers."""

import http.server
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from train_model.cli import UserError
from train_model.data import download, transfer
from train_model.data.corpora.raw_text import obtain
from train_model.data.transfer import Ledger, NetworkError, fetch
from trt_code import headers

ROOT = Path(__file__).parents[2]
BODY = bytes(range(256)) * 4096  # 1 MiB
DICTIONARY = "".join(f"word{i} 1\n" for i in range(32764)).encode()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files`` by name, and whole replies in ``raw``.

    ``cut`` ends a reply early, once; ``stall`` sends nothing after it.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.raw: dict[str, bytes] = {}
        self.status: dict[str, int] = {}
        self.cut: dict[str, int] = {}
        self.stall: set[str] = set()
        self.etag = '"1"'
        self.ranges: list[str | None] = []
        self.released = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        name = self.path.lstrip("/")
        server = self.server
        if name in server.raw:
            self.close_connection = True
            self.wfile.write(server.raw[name])
            return
        server.ranges.append(self.headers["Range"])
        if name in server.status or name not in server.files:
            return self.send_error(server.status.get(name, 404))
        body, start = server.files[name], 0
        if self.headers["Range"] and self.headers["If-Range"] == server.etag:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if start and start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        self.wfile.write(body[start : server.cut.pop(name, len(body))])
        if name in server.stall:
            self.wfile.flush()
            server.released.wait(10)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(transfer.time, "sleep", lambda seconds: None)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_good_answer(server, tmp_path):
    server.files["x"] = BODY
    fetch(f"{server.address}/x", tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == BODY


def test_a_truncated_answer_continues_where_it_stopped(server, tmp_path):
    server.files["x"], server.cut["x"] = BODY, 700_000
    fetch(f"{server.address}/x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == BODY
    assert server.ranges == [None, "bytes=700000-"]


OK = b"HTTP/1.1 200 OK\r\n"
NOT_HTTP = {
    "another protocol": b"SSH-2.0-x\r\n",
    "too many headers": OK + b"X: y\r\n" * 200 + b"\r\n",
    "a header without end": OK + b"X: " + b"y" * 100_000,
    "a chunk that is cut off": OK + b"Transfer-Encoding: chunked\r\n\r\nff\r\nabc",
    "a chunk without a size": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "an address of no form": b"HTTP/1.1 302 x\r\nLocation: http://[::1\r\n\r\n",
    "a name of no host": b"HTTP/1.1 302 x\r\nLocation: http://" + b"a" * 80 + b".com\r\n\r\n",
    "bytes in an address": b"HTTP/1.1 302 x\r\nLocation: http://\xff\xfe/\r\n\r\n",
    "another part": b"HTTP/1.1 206 x\r\nContent-Range: bytes 5-6/9\r\nContent-Length: 2\r\n\r\nab",
}


@pytest.mark.parametrize("reply", NOT_HTTP.values(), ids=NOT_HTTP)
def test_a_reply_of_another_form(server, tmp_path, reply):
    server.raw = {"x": reply, "v11.1/include/NvInferVersion.h": reply}
    with pytest.raises(NetworkError, match=r"/x: .*run it again"):
        fetch(f"{server.address}/x", tmp_path / "x", attempts=1)
    with pytest.raises(UserError, match=r"NvInferVersion\.h"):
        headers.fetch(server.address, "11.1", tmp_path / "include")
    assert not (tmp_path / "include").exists()


@pytest.mark.parametrize("length", ["abc", "\u0663", "-5", "9" * 6000])
def test_a_length_that_is_no_number_is_ignored(server, tmp_path, length):
    server.raw["x"] = OK + f"Content-Length: {length}\r\n\r\nwhole".encode()
    fetch(f"{server.address}/x", tmp_path / "x", attempts=1)
    assert (tmp_path / "x").read_bytes() == b"whole"


@pytest.mark.parametrize(
    "address",
    ["http://[::1", "http://a b/", "http://\ud800/", "http://\u0663/", "http://127.0.0.1:x/"],
)
def test_a_wrong_address(tmp_path, address):
    with pytest.raises(NetworkError, match="run it again"):
        fetch(f"{address}/x", tmp_path / "x", attempts=1)
    with pytest.raises(UserError, match="cannot be reached"):
        headers.fetch(address, "11.1", tmp_path / "include")


@pytest.mark.parametrize("tag", [b"\xff\xfe", b'"1"\r\nX: y', "\u20ac".encode(), b""])
def test_a_damaged_validator_is_not_sent(server, tmp_path, tag):
    server.files["x"] = BODY
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / "x.validator").write_bytes(tag)
    fetch(f"{server.address}/x", tmp_path / "x", attempts=1)
    assert (tmp_path / "x").read_bytes() == BODY
    assert server.ranges == [None]


def test_a_reply_without_end(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "MOST_RECEIVED", 1000)
    server.files["x"] = BODY
    with pytest.raises(NetworkError, match="sends more than 1000 bytes"):
        fetch(f"{server.address}/x", tmp_path / "x", attempts=1)


def test_a_second_run_continues_where_the_first_stopped(server, tmp_path):
    server.files["x"], server.cut["x"] = BODY, 300_000
    with pytest.raises(NetworkError, match="300000 bytes are kept, run it again"):
        fetch(f"{server.address}/x", tmp_path / "x", attempts=1)
    fetch(f"{server.address}/x", tmp_path / "x", attempts=1)
    assert (tmp_path / "x").read_bytes() == BODY
    assert server.ranges[-1] == "bytes=300000-"


@pytest.mark.parametrize("etag", ['"2"', None])
def test_a_beginning_that_may_be_of_another_file_is_dropped(server, tmp_path, etag):
    server.files["x"], server.cut["x"] = BODY, 300_000
    with pytest.raises(NetworkError):
        fetch(f"{server.address}/x", tmp_path / "x", attempts=1)
    server.files["x"], server.etag = BODY[::-1], etag
    fetch(f"{server.address}/x", tmp_path / "x", attempts=1)
    assert (tmp_path / "x").read_bytes() == BODY[::-1]


def test_part_longer_than_the_file_is_dropped(server, tmp_path):
    server.files["x"] = BODY[:1000]
    (tmp_path / "x").write_bytes(BODY)
    (tmp_path / "x.validator").write_text(server.etag)
    fetch(f"{server.address}/x", tmp_path / "x", attempts=1)
    assert (tmp_path / "x").read_bytes() == BODY[:1000]


def test_stalled_answer_is_given_up(server, tmp_path):
    server.files["x"], server.cut["x"] = BODY, 1000
    server.stall.add("x")
    with pytest.raises(NetworkError, match="timed out; 1000 bytes are kept"):
        fetch(f"{server.address}/x", tmp_path / "x", timeout=0.2, attempts=1)


@pytest.mark.parametrize(("status", "tries"), [(403, 1), (404, 1), (503, 3), (429, 3)])
def test_refusals(server, tmp_path, status, tries):
    server.status["x"] = status
    with pytest.raises(NetworkError, match=f"the server answers {status}"):
        fetch(f"{server.address}/x", tmp_path / "x")
    assert len(server.ranges) == tries
    assert not (tmp_path / "x").exists()


def test_a_server_that_does_not_listen(tmp_path, server):
    server.shutdown()
    address = server.address
    server.socket.close()
    with pytest.raises(NetworkError, match="Connection refused"):
        fetch(f"{address}/x", tmp_path / "x", attempts=1)


@pytest.mark.parametrize(
    "notice",
    [
        b'{"error": {"code": 403}}',
        b"Too many requests",
        b"<!-- x --><html>",
        b"\x1f\x8b\x08 cut",
        b"",
    ],
)
def test_a_web_page_is_not_recorded_and_a_record_of_one_is_replaced(tmp_path, notice, capsys):
    file, ledger = tmp_path / "x.tgz", tmp_path / "checksums.json"
    file.write_bytes(notice)
    with pytest.raises(UserError, match=r"x\.tgz"):
        obtain(file, "http://127.0.0.1:9/x.tgz")
    assert not ledger.exists()
    Ledger(ledger).accept("x.tgz", file)  # as earlier versions did
    file.write_bytes(archive())
    obtain(file, "http://127.0.0.1:9/x.tgz")
    assert "which nobody checked" in capsys.readouterr().err
    obtain(file, "http://127.0.0.1:9/x.tgz")
    assert capsys.readouterr().err == ""
    file.write_bytes(archive(text="other"))
    with pytest.raises(UserError, match=r"is not the x\.tgz of"):
        obtain(file, "http://127.0.0.1:9/x.tgz")


@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000, '"x"'])
def test_a_damaged_ledger_is_one_line(tmp_path, content):
    (tmp_path / "sums.json").write_text(content)
    with pytest.raises(UserError, match=r"sums\.json is (damaged|not JSON) .*; delete it"):
        Ledger(tmp_path / "sums.json")


@pytest.mark.parametrize("entry", [5, None, {}, {"size": 1}, [1]])
def test_an_entry_of_another_form_counts_as_none(tmp_path, entry):
    file, ledger = tmp_path / "x", tmp_path / "sums.json"
    file.write_bytes(b"content")
    ledger.write_text(json.dumps({"x": entry, "y": entry}))
    Ledger(ledger).accept("x", file)
    assert set(json.loads(ledger.read_text())) == {"x"}


def test_the_ledger_detects_changed_files(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"one")
    Ledger(tmp_path / "sums.json").accept("x", file)
    Ledger(tmp_path / "sums.json").accept("x", file)
    file.write_bytes(b"two")
    with pytest.raises(UserError, match="is not the x of 3 bytes"):
        Ledger(tmp_path / "sums.json").accept("x", file)


def archive(text: str = "x@@ y\n") -> bytes:
    """Return a small copy of the data set's archive: texts, codes, and unneeded files."""
    tests = {"en": "a b@@ c\n", "de": "d\n"}
    members = {f"{name}.{lang}": text for name in download.TEXTS for lang in ("en", "de")}
    members |= {f"{download.TEST_SET}.{lang}": text for lang, text in tests.items()}
    members |= {"bpe.32000": "#version: 0.2\na b\n", "../../escape": "no", "vocab.bpe.32000": "no"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture
def mirror(server):
    server.files = {
        "checkpoint_last.pt": b"PK\x03\x04" + BODY,
        "dict.en.txt": DICTIONARY,
        "dict.de.txt": DICTIONARY,
        "wmt16_en_de.tar.gz": archive(),
    }
    return server


ENVIRONMENT = os.environ | {"PYTHON": sys.executable}


def command(folder, server, *flags) -> list:
    return [ROOT / "download.sh", "--output", folder, "--mirror", server.address, *flags]


def shell(folder, server) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(folder, server, "--timeout", "0.5", "--attempts", "1"),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def from_mirror(folder, server):
    download.main(["--output", str(folder), "--mirror", server.address, "--attempts", "1"])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


EVERYTHING = {
    "checkpoint_last.pt",
    "dict.en.txt",
    "dict.de.txt",
    "bpe.codes",
    "test.en",
    "test.de",
    "checksums.json",
    *(f"{name}.{lang}" for name in download.TEXTS for lang in ("en", "de")),
}


def test_everything_comes_once_and_is_checked_after(mirror, tmp_path):
    reply = shell(tmp_path, mirror)
    assert reply.returncode == 0, reply.stderr
    assert names(tmp_path) == EVERYTHING
    assert (tmp_path / "test.en").read_text() == "a bc\n"
    assert (tmp_path / "bpe.codes").read_text().startswith("#version")
    assert set(json.loads((tmp_path / "checksums.json").read_text())) == (
        EVERYTHING - {"checksums.json"}
    )
    fetched = len(mirror.ranges)
    reply = shell(tmp_path, mirror)
    assert reply.returncode == 0
    assert "checkpoint_last.pt: here already" in reply.stdout
    assert len(mirror.ranges) == fetched
    (tmp_path / "test.de").write_text("changed\n")
    reply = shell(tmp_path, mirror)
    assert reply.returncode == 2
    assert "is not the test.de of 2 bytes" in reply.stderr


def test_files_put_there_by_hand_are_checked_and_unpacked(mirror, tmp_path):
    for name, body in mirror.files.items():
        (tmp_path / name).write_bytes(body)
    from_mirror(tmp_path, mirror)
    assert names(tmp_path) == EVERYTHING
    assert not mirror.ranges


PAGE = b"\n <!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 415916075\n"


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("checkpoint_last.pt", PAGE, "is a web page, not the file"),
        ("checkpoint_last.pt", POINTER, "is a git-lfs pointer"),
        ("checkpoint_last.pt", b"", "is empty"),
        ("checkpoint_last.pt", b"hello", "is not a PyTorch checkpoint"),
        ("dict.de.txt", PAGE, "is a web page"),
        ("dict.de.txt", b"a 1\nb 2\n", "has 6 symbols and the checkpoint 32768"),
        ("wmt16_en_de.tar.gz", PAGE, "is a web page"),
        ("wmt16_en_de.tar.gz", b"PK\x03\x04", "is not a gzip archive"),
        ("wmt16_en_de.tar.gz", archive()[:200], "cannot be unpacked"),
    ],
)
def test_impostors_never_get_the_name(mirror, tmp_path, name, body, reason):
    good, mirror.files[name] = mirror.files[name], body
    with pytest.raises(UserError) as error:
        from_mirror(tmp_path, mirror)
    assert reason in str(error.value)
    assert name not in names(tmp_path)
    mirror.files[name] = good  # nothing of the impostor is left
    from_mirror(tmp_path, mirror)
    assert names(tmp_path) == EVERYTHING


@pytest.mark.parametrize("address", ["server/folder", "file:///etc", "https:///folder"])
def test_a_mirror_that_is_not_an_address(address, tmp_path):
    with pytest.raises(UserError, match=r"is not an address such as https://server/folder"):
        download.main(["--mirror", address, "--output", str(tmp_path / "files")])
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize("trouble", ["refused", "stalled", "truncated"])
def test_without_a_network_the_manual_steps_are_printed(mirror, tmp_path, trouble):
    name = "checkpoint_last.pt"
    if trouble == "refused":
        mirror.status[name] = 403
    else:
        mirror.cut[name] = 1000
    if trouble == "stalled":
        mirror.stall.add(name)
    reply = shell(tmp_path, mirror)
    assert reply.returncode == 2
    assert "https://drive.google.com/drive/folders/1xDC8zLuH" in reply.stderr
    assert reply.stderr.splitlines()[-1].startswith(f"error: {mirror.address}/{name}: ")
    assert name not in names(tmp_path)
    mirror.status.clear()
    mirror.stall.clear()
    assert shell(tmp_path, mirror).returncode == 0
    assert (tmp_path / name).read_bytes() == mirror.files[name]


@pytest.mark.parametrize("name", ["checkpoint_last.pt", "wmt16_en_de.tar.gz"])
def test_killed_in_the_middle_of_a_file(mirror, tmp_path, name):
    mirror.cut[name] = 100
    mirror.stall.add(name)
    process = subprocess.Popen(
        command(tmp_path, mirror),
        env=ENVIRONMENT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    part, deadline = None, time.monotonic() + 30
    while part is None and time.monotonic() < deadline:
        threading.Event().wait(0.02)
        part = next((p for p in tmp_path.rglob(f"*{name}*") if p.stat().st_size == 100), None)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert part is not None
    assert part.parent != tmp_path
    assert name not in names(tmp_path)
    mirror.stall.clear()
    assert shell(tmp_path, mirror).returncode == 0
    assert mirror.ranges.count("bytes=100-") == 1
    assert names(tmp_path) == EVERYTHING


def test_two_at_once_take_turns(mirror, tmp_path):
    mirror.files["checkpoint_last.pt"] = b"PK\x03\x04" + BODY * 16
    runs = [
        subprocess.Popen(command(tmp_path, mirror), env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [run.wait() for run in runs] == [0, 0]
    assert names(tmp_path) == EVERYTHING
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == mirror.files["checkpoint_last.pt"]
    assert mirror.ranges == [None] * 4  # each file once, from its beginning


@pytest.mark.parametrize("name", ["checkpoint_last.pt", "wmt16_en_de.tar.gz"])
def test_a_full_disk_keeps_what_was_downloaded(mirror, tmp_path, name):
    """A limit on file sizes replaces a full disk. The checkpoint exceeds it, or a text of the archive."""
    mirror.files["wmt16_en_de.tar.gz"] = archive(text="x@@ y\n" * 500_000)
    if name == "wmt16_en_de.tar.gz":
        mirror.files["checkpoint_last.pt"] = b"PK\x03\x04"
    limited = ["sh", "-c", 'ulimit -f 1900; exec "$@"', "sh", *command(tmp_path, mirror)]
    reply = subprocess.run(limited, env=ENVIRONMENT, capture_output=True, text=True)
    assert reply.returncode == 2
    assert reply.stderr.count("\n") == 1
    assert "File too large" in reply.stderr
    mirror.ranges.clear()
    assert shell(tmp_path, mirror).returncode == 0
    assert names(tmp_path) == EVERYTHING
    if name == "checkpoint_last.pt":
        assert mirror.ranges[0].startswith("bytes=")
    else:
        assert not mirror.ranges


@pytest.fixture
def gdown(monkeypatch, mirror):
    """A mock of gdown: the folder and file ids lead to the local server. Google is not asked."""

    class DownloadError(Exception):
        pass

    listed = [
        SimpleNamespace(id="A", path="a/checkpoint_last.pt"),
        SimpleNamespace(id="B", path="x"),
    ]
    files = {"A": "checkpoint_last.pt", download.DRIVE_ARCHIVE: "wmt16_en_de.tar.gz"}

    def fetch_file(id, output, resume, timeout, retries):
        if files[id] in mirror.status:
            raise DownloadError("Too many users have viewed or downloaded this file")
        Path(output).write_bytes(mirror.files[files[id]])
        return output

    module = SimpleNamespace(
        download_folder=lambda id, skip_download, quiet, timeout: listed,
        download=fetch_file,
        exceptions=SimpleNamespace(DownloadError=DownloadError),
        listed=listed,
    )
    monkeypatch.setitem(sys.modules, "gdown", module)
    monkeypatch.setattr(download, "SEED", mirror.address)
    return module


def test_from_google_drive(gdown, tmp_path):
    download.main(["--output", str(tmp_path)])
    assert names(tmp_path) == EVERYTHING


def test_google_drive_refuses(gdown, mirror, tmp_path, capsys):
    mirror.status["checkpoint_last.pt"] = 403
    with pytest.raises(NetworkError, match="Google Drive: Too many users"):
        download.main(["--output", str(tmp_path)])
    assert "By hand" in capsys.readouterr().err


def test_google_drive_folder_without_the_checkpoint(gdown, tmp_path):
    del gdown.listed[0]
    with pytest.raises(NetworkError, match=r"has no checkpoint_last.pt, only x"):
        download.main(["--output", str(tmp_path)])


def test_without_gdown_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(UserError, match=r"pip install 'gdown>=6\.5'"):
        download.main(["--output", str(tmp_path)])
