"""Runs every command of the documents, with small networks for the demo, or states why it does not.

The commands run unchanged, in a folder that has the checkout's own files as links, its own ``build``, and
checkpoints of the demo's form that are made in no time: what they translate means nothing, but every
file, flag and step is there. One build folder serves all, as it serves a user.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from trt_code.tests.repository.pages import ROOT, command_lines
from trt_code.tests.repository.warm_python import warm_python
from trt_code.tests.runners import small_demo
from trt_code.triton import client

COMMANDS = [
    *command_lines("make"),
    *command_lines(r"python3? -m (?:train_model|onnx_export|trt_code)\.\S+"),
    *command_lines(r"python3? [a-z_/]+\.py"),
    *command_lines(r"build/(?:triton/\w+\.sh|plugins/lite_plugin_host\S*)"),
    *command_lines(r"(?:docker|torchrun|curl|perf_analyzer|pip|apt) \S+"),
]
# Commands that this test does not run, with the reason; the first match counts.
ELSEWHERE = {
    r"make (download|audit|lock|env|corpus|headers|nvcc)\b|pip |apt ": "reaches for the network",
    r"make (lint|test)\b": "is what runs this",
    r"docker |curl |perf_analyzer |build/triton/": "needs a container engine or a server",
    r".* -m trt_code\.triton\.client": "needs a server; test_triton_server.py has one",
    r"make (train|distill|qat)\b|torchrun|.* -m train_model\.(train|distill|data\.prepare)": (
        "makes a corpus and trains; test_fairseq_training.py does it in seconds"
    ),
    r"make plugins|build/plugins/|make torch-ops": "compiles for minutes; test_plugins.py does it",
    r"make sweep": "measures for minutes; test_sweep.py does it in seconds",
    r".*trt_code\.stress\.": "runs for long; tests run a little of it",
    r"python doc/porting/": "test_doc_porting.py runs it",
    r"python doc/figures/": "test_docs.py runs it",
    r"python doc/surgery/": "test_graphsurgeon.py runs it",
    r"make engine-|make .* engine-": "builds engines; test_real_builds.py does it",
    r"make import\b|.*MODEL=mine|.*retrained": (
        "takes a reader's own files; test_import_model.py and test_imported_models.py have some"
    ),
    r".*\.\.\.|.*/path/to/|.*<": "names no file that is here",
    r"python -m \S+$": "a mention of the program",
}
# Commands that a machine without a GPU must refuse.
GPU_ONLY = (
    r".*build_engine|.*(translate|evaluate) .*--runner trt|.*measure\.kernels|.*roofline"
    r"|.*--runner cuda-graph |.*layers\.json"
)


def _fits(rules: Iterable[str], command: str) -> bool:
    return any(re.match(rule, command) for rule in rules)


HERE = [command for command in COMMANDS if not _fits(ELSEWHERE, command)]
REFUSED = [command for command in HERE if _fits([GPU_ONLY], command)]
TO_BE_RUN = [command for command in HERE if command not in REFUSED]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Iterator[Path]:
    with warm_python(tmp_path_factory.mktemp("python")) as program:
        yield program


@dataclass(frozen=True)
class Workshop:
    """A folder to work in as in the checkout, and the Python to do it with."""

    folder: Path
    python: Path

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a documented command."""
        words = shlex.split(command)
        if words[0] == "make":
            words += [f"PYTHON={self.python}"]
        elif words[0].startswith("python"):
            words[0] = self.python
        # not as a part of the make that runs the tests, which would print the folders it enters
        alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        return subprocess.run(
            words,
            cwd=self.folder,
            env=alone,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def succeed(self, command: str) -> str:
        """The same, for what works here; return what it prints."""
        reply = self.run(command)
        assert reply.returncode == 0, f"{command}\n{reply.stdout[-1000:]}\n{reply.stderr[-2000:]}"
        return reply.stdout


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, python) -> Workshop:
    """With small networks exported and patched, and what a server's client measured."""
    folder = tmp_path_factory.mktemp("workshop")
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("build", "data_model"):
            (folder / path.name).symlink_to(path)
    demo = small_demo.put_into(folder)
    shop = Workshop(folder, python)
    shop.succeed("make patch")
    shop.succeed("make onnx MODEL=demo-ar")
    for name in ("checkpoint.pt", "yours.pt"):  # as the pages call a reader's own files
        (folder / name).symlink_to(demo / "checkpoint.pt")
    for name in ("model.onnx", "model.fp16.onnx"):
        shutil.copy(folder / "build" / "demo" / name, folder)
    measured = client.summary(client.Measured(["eins"], [1.0], 1.0))
    (folder / "build" / "load.json").write_text(json.dumps(measured))
    return shop


def test_every_reason_is_needed():
    idle = [rule for rule in ELSEWHERE if not any(re.match(rule, command) for command in COMMANDS)]
    assert not idle
    assert len(TO_BE_RUN) > 30
    assert len(REFUSED) >= 10


ALL = os.environ.get("LITE_ALL_COMMANDS")
on_request = pytest.mark.skipif(not ALL, reason="takes minutes; LITE_ALL_COMMANDS=1 runs it")


@on_request
@pytest.mark.parametrize("command", TO_BE_RUN)
def test_command(command, workshop):
    if "bench/results.json" in command or command == "make report":
        workshop.succeed("python -m trt_code.bench --runner ort --precision fp32 --shape 1x8")
    printed = workshop.succeed(command)
    if "translate" in command and "hundred" in command:
        assert printed.count("\n") == 1


@on_request
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, which runs these")
@pytest.mark.parametrize("command", REFUSED)
def test_command_for_a_gpu_is_refused_in_a_line(command, workshop):
    reply = workshop.run(command)
    assert reply.returncode == 2, reply.stderr
    (reason,) = (line for line in reply.stderr.splitlines() if not line.startswith("make: "))
    assert reason.startswith("error: ")
