"""`make headers` with a local server in place of NVIDIA's repository. The headers are invented."""

import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from train_model.cli import UserError
from trt_code import headers
from trt_code.headers import LICENCE, fetch, main

LINES = {
    "NvInferRuntime.h": ['#include "NvInferPluginBase.h" // IWYU pragma: export', "class A;"],
    "NvInferPluginBase.h": ['#include "NvInferRuntimeBase.h"', "#include <cstdint>"],
    "NvInferRuntimeBase.h": ['#include "NvInferVersion.h"'],
    "NvInferVersion.h": ["#define TRT_MAJOR_ENTERPRISE 11", "#define TRT_MINOR_ENTERPRISE 9"],
}


@pytest.fixture
def repository(tmp_path):
    """The folder of a release, and the address at which it is served."""
    folder = tmp_path / "repository" / "v11.9" / "include"
    folder.mkdir(parents=True)
    for name, lines in LINES.items():
        (folder / name).write_text("\n".join([f"// {LICENCE}", *lines]) + "\n")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=tmp_path / "repository")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_headers_that_the_plugins_include_are_fetched(
    repository, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(headers, "find_headers", lambda: None)
    folder, address = repository
    (folder / "NvOnnxParser.h").write_text("not included")
    for name in ("TENSORRT_ROOT", "TENSORRT_HOME"):
        monkeypatch.delenv(name, raising=False)
    main(["--source", address, "--release", "11.9"])
    got = Path("build/TensorRT/include")
    assert sorted(path.name for path in got.iterdir()) == sorted(LINES)
    for name in LINES:
        assert (got / name).read_bytes() == (folder / name).read_bytes()
    assert "4 headers of TensorRT 11.9; their licence and version were checked" in (
        capsys.readouterr().out
    )


def refused(address: str, folder: Path, release: str = "11.9") -> str:
    folder.mkdir(exist_ok=True)
    (folder / "NvKept.h").touch()
    with pytest.raises(UserError) as error:
        fetch(address, release, folder)
    assert [path.name for path in folder.iterdir()] == ["NvKept.h"]
    return str(error.value)


@pytest.mark.parametrize("name", ["thesis.txt", "mine.h"])
def test_a_folder_with_other_files_stays(repository, tmp_path, name):
    _, address = repository
    output = tmp_path / "home"
    output.mkdir()
    (output / name).write_text("mine")
    with pytest.raises(UserError, match="home has other files than TensorRT's headers"):
        fetch(address, "11.9", output)
    assert (output / name).read_text() == "mine"


def test_wrong_content_is_not_kept(repository, tmp_path, monkeypatch):
    folder, address = repository
    output = tmp_path / "include"
    assert "404" in refused(address, output, "11.8")
    version = folder / "NvInferVersion.h"
    text = version.read_text()
    version.write_text(text.replace(" 9", " 8"))
    assert "has headers of TensorRT 11.8 under v11.9" in refused(address, output)
    version.write_text(text.replace(LICENCE, "All rights reserved"))
    assert "NvInferVersion.h" in refused(address, output)
    version.write_text(text)
    base = folder / "NvInferRuntimeBase.h"
    content = base.read_bytes()
    sums = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(LINES)]
    total = hashlib.sha256("".join(sums).encode()).hexdigest()
    monkeypatch.setitem(headers.KNOWN, "11.9", total)
    base.write_bytes(content + b"// changed\n")
    assert "are not those of TensorRT 11.9" in refused(address, output)
    base.write_bytes(content)
    assert fetch(address, "11.9", output) == sorted(LINES)


def test_older_releases_have_three_numbers_in_their_tags(repository, tmp_path):
    folder, address = repository
    folder.parent.rename(folder.parents[1] / "v11.9.0")
    assert fetch(address, "11.9", tmp_path / "include") == sorted(LINES)


def test_a_server_out_of_reach_is_one_line_with_another_way(tmp_path):
    message = refused("http://127.0.0.1:9", tmp_path / "include")
    assert "cannot be reached" in message
    assert "TENSORRT_ROOT" in message


@pytest.mark.parametrize("release", ["11", "v11.1", "../11.1", "11.1.0"])
def test_an_invalid_release_is_refused(release, monkeypatch):
    with pytest.raises(UserError, match="is not a release"):
        main(["--release", release])
