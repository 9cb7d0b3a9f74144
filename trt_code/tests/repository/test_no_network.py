"""Imports and translation never use the network; only download.sh does."""

import subprocess
import sys

import pytest

from trt_code.tests.tiny import SENTENCES

# Runs before a script: opening a connection or resolving an address ends the process.
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
# Runs every program's help, which also imports modules late and computes the defaults of options.
ALL_PROGRAMS = """
import importlib, pkgutil
from pathlib import Path
import onnx_export, train_model, trt_code
count = 0
for package in (onnx_export, train_model, trt_code):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        source = Path(module.module_finder.path, module.name.rpartition(".")[2] + ".py")
        if ".tests" in module.name or not source.is_file() or 'if __name__' not in source.read_text():
            continue
        try:
            importlib.import_module(module.name).main(["--help"])
        except ModuleNotFoundError as error:
            assert error.name.partition(".")[0] not in ("onnx_export", "train_model", "trt_code"), error
        except SystemExit as left:
            assert left.code == 0, module.name
        count += 1
print("programs:", count)
"""
FROM_CHECKPOINT_TO_LINT = """
from pathlib import Path
from onnx_export import export, verify
from trt_code import graph_lint, onnx_surgeon
checkpoint, folder = sys.argv[1], Path(sys.argv[2])
graph, patched = folder / "model.onnx", folder / "model.fp16.onnx"
for main, arguments in (
    (export.main, ["--checkpoint", checkpoint, "--output", graph]),
    (verify.main, ["--checkpoint", checkpoint, "--onnx", graph]),
    (onnx_surgeon.main, ["--input", graph, "--output", patched, "--precision", "fp16"]),
    (graph_lint.main, [patched]),
):
    assert not main(list(map(str, arguments))), main.__module__
"""
TRANSLATE = """
from pathlib import Path
from train_model.data.text import TextOptions
from train_model.model_folder import ModelFolder
from trt_code import translate
text = Path(sys.argv[1]).parent
tiny = ModelFolder("tiny", Path(sys.argv[1]), src_dict=text / "dict.txt", tgt_dict=text / "dict.txt",
                   text=TextOptions(codes=text / "bpe.codes"))
translate.find_model = lambda name, build_dir: tiny
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


def test_no_program_opens_a_connection_for_its_help():
    reply = run_blocked(ALL_PROGRAMS)
    assert reply.returncode == 0, reply.stderr
    assert int(reply.stdout.rpartition("programs: ")[2]) > 20


def test_exporting_and_patching_open_no_connection(tiny_files, tmp_path):
    reply = run_blocked(FROM_CHECKPOINT_TO_LINT, str(tiny_files.checkpoint), str(tmp_path))
    assert reply.returncode == 0, reply.stderr


def test_translating_opens_no_connection(tiny_files, tiny_build):
    reply = run_blocked(TRANSLATE, str(tiny_files.checkpoint), str(tiny_build), *SENTENCES)
    assert reply.returncode == 0, reply.stderr
    lines = reply.stdout.splitlines()
    assert len(lines) == 2 * len(SENTENCES)
    assert lines[: len(SENTENCES)] == lines[len(SENTENCES) :]
