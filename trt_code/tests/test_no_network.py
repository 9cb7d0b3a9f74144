"""Nothing reaches for the network when it is imported or translates; downloads are for download.sh."""

import subprocess
import sys

import pytest

from trt_code.tests.conftest import SENTENCES

# Put in front of a script: whoever opens a connection or asks for an address ends the process.
BLOCKED = """
import os, socket, sys
def refuse(*arguments, **options):
    print("reached for the network:", *arguments, file=sys.stderr, flush=True)
    os._exit(77)  # an exception could be swallowed
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
"""
IMPORT_ALL = """
import importlib, pkgutil
import onnx_export, train_model, trt_code
count = 0
for package in (onnx_export, train_model, trt_code):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if ".tests" in module.name:
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            # what only a server, a GPU or a training machine has may be absent, our own may not
            assert error.name.partition(".")[0] not in ("onnx_export", "train_model", "trt_code"), error
        count += 1
print(count)
"""
TRANSLATE = """
from pathlib import Path
from train_model.models.zoo import ModelFiles
from trt_code import translate
text = Path(sys.argv[1]).parent
tiny = ModelFiles("tiny", Path(sys.argv[1]), text / "dict.txt", text / "dict.txt", text / "bpe.codes")
translate.model_files = lambda name, build_dir: tiny
for runner in ("torch", "ort"):
    translate.main(["--model", "tiny", "--device", "cpu", "--runner", runner,
                    "--build-dir", sys.argv[2], "--", *sys.argv[3:]])
"""


def run_blocked(script: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", BLOCKED + script, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    "attempt",
    [
        "import urllib.request; urllib.request.urlopen('http://example.org')",
        "socket.socket().connect(('127.0.0.1', 9))",
    ],
)
def test_the_block_blocks(attempt):
    assert run_blocked(attempt).returncode == 77


def test_importing_every_module_opens_no_connection():
    reply = run_blocked(IMPORT_ALL)
    assert reply.returncode == 0, reply.stderr
    assert int(reply.stdout) > 80


def test_translating_opens_no_connection(tiny_files, tiny_build):
    reply = run_blocked(TRANSLATE, str(tiny_files.checkpoint), str(tiny_build), *SENTENCES)
    assert reply.returncode == 0, reply.stderr
    lines = reply.stdout.splitlines()
    assert len(lines) == 2 * len(SENTENCES)
    assert lines[: len(SENTENCES)] == lines[len(SENTENCES) :]
