"""Runs every command of the documents, with small networks for the demo, or states why it does not.

The commands run unchanged in a copy of the checkout. In place of the demo's checkpoints it has small ones
with random weights: their translations mean nothing, but every file, flag and step exists. All commands
share one build folder, as a user's commands do.
"""

import importlib.util
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

from trt_code.tests.repository.pages import command_lines
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
    r"make patch .*MODEL=wmt16-random": "exports 104 million parameters for minutes",
    r"make sweep": "measures for minutes; test_sweep.py does it in seconds",
    r".*trt_code\.stress\.": "runs for long; tests run a little of it",
    r"python doc/porting/": "test_doc_porting.py runs it",
    r"python doc/figures/": "test_docs.py runs it",
    r"python doc/surgery/": "test_graphsurgeon.py runs it",
    r"make engine-|make .* engine-": "builds engines; test_real_builds.py does it",
    r"make import\b|.*MODEL=mine|.*retrained": (
        "takes a reader's own files; test_import_model.py and test_imported_models.py have some"
    ),
    r"make translate-corpus": "needs Ray; trt_code/tests/corpus runs it",
    r".*\.\.\.|.*/path/to/|.*<": "names no file that is here",
    r"python -m \S+$": "a mention of the program",
}
# Commands that a machine without a GPU must refuse.
GPU_ONLY = (
    r".*(translate|evaluate|bench) .*--runner trt|.*measure\.kernels|.*roofline|.*--runner cuda-graph "
    r"|.*layers\.json"
)
# Commands that need TensorRT, or an engine: refused without it. test_real_builds.py, test_plans.py and
# plugin_attrs_issue/tests run them.
TENSORRT_ONLY = r".*build_engine|make .*show-parser|make plans"
# Commands that take a second and need no exported network. The others take minutes together.
QUICK = r"make( help| doctor| models)?$|.*triton\.cost .*doc/results|.*translate .*--runner torch"


def _fits(rules: Iterable[str], command: str) -> bool:
    return any(re.match(rule, command) for rule in rules)


HERE = [command for command in COMMANDS if not _fits(ELSEWHERE, command)]
REFUSED = [command for command in HERE if _fits([GPU_ONLY, TENSORRT_ONLY], command)]
TO_BE_RUN = [command for command in HERE if command not in REFUSED]
QUICKLY = [command for command in TO_BE_RUN if _fits([QUICK], command)]
SLOWLY = [command for command in TO_BE_RUN if command not in QUICKLY]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Iterator[Path]:
    with warm_python(tmp_path_factory.mktemp("python")) as program:
        yield program


@dataclass(frozen=True)
class Workshop:
    """A copy of the checkout, and the Python to run its commands."""

    folder: Path
    python: Path

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a documented command."""
        words = shlex.split(command)
        if words[0] == "make":
            words += [f"PYTHON={self.python}"]
        elif words[0].startswith("python"):
            words[0] = self.python
        # not as part of the make that runs the tests, which would print the folders that it enters
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
        """Run a command that must succeed; return its output."""
        reply = self.run(command)
        assert reply.returncode == 0, f"{command}\n{reply.stdout[-1000:]}\n{reply.stderr[-2000:]}"
        return reply.stdout


@pytest.fixture(scope="module")
def bare(tmp_path_factory, python) -> Workshop:
    """A copy of the checkout with small networks for the demo and nothing built."""
    folder = tmp_path_factory.mktemp("workshop")
    demo = small_demo.copy_checkout(folder)
    for name in ("checkpoint.pt", "yours.pt"):  # the pages' names for a reader's own files
        (folder / name).symlink_to(demo / "checkpoint.pt")
    (folder / "lines.txt").write_text("two hundred and three\n")
    return Workshop(folder, python)


@pytest.fixture(scope="module")
def workshop(bare) -> Workshop:
    """The same with the networks exported and patched, and with a client's measurements of a server."""
    bare.succeed("make patch")
    bare.succeed("make onnx MODEL=demo-ar")
    for name in ("model.onnx", "model.fp16.onnx"):
        shutil.copy(bare.folder / "build" / "demo" / name, bare.folder)
    measured = client.summary(client.Measured(["eins"], [""], [1.0], 1.0))
    (bare.folder / "build" / "load.json").write_text(json.dumps(measured))
    return bare


on_request = pytest.mark.skipif(
    not os.environ.get("LITE_ALL_COMMANDS"), reason="takes minutes; LITE_ALL_COMMANDS=1 runs it"
)


def test_every_reason_is_needed():
    idle = [rule for rule in ELSEWHERE if not any(re.match(rule, command) for command in COMMANDS)]
    assert not idle
    assert len(TO_BE_RUN) > 30
    assert len(QUICKLY) > 4
    assert len(REFUSED) > 10


@pytest.mark.parametrize("command", QUICKLY)
def test_quick_command(command, bare):
    check(command, bare)


@on_request
@pytest.mark.parametrize("command", SLOWLY)
def test_slow_command(command, workshop):
    if "bench/results.json" in command or command == "make report":
        workshop.succeed("python -m trt_code.bench --runner ort --precision fp32 --shape 1x8")
    check(command, workshop)


def check(command: str, shop: Workshop) -> None:
    """Run a command that works here; a command that translates a sentence prints one line."""
    printed = shop.succeed(command)
    if "translate" in command and "hundred" in command:
        assert printed.count("\n") == 1


def _lacks(command: str) -> bool:
    """Whether this machine lacks the GPU or the TensorRT that the command needs."""
    if _fits([TENSORRT_ONLY], command):
        return not any(map(importlib.util.find_spec, ("tensorrt", "tensorrt_rtx")))
    return not torch.cuda.is_available()


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=on_request) if "trt_code.bench" in command else command
        for command in REFUSED  # bench runs its reference first
    ],
)
def test_a_command_for_what_is_missing_is_refused_in_a_line(command, bare):
    if not _lacks(command):
        pytest.skip("this machine has what the command needs")
    reply = bare.run(command)
    assert reply.returncode == 2, reply.stderr
    (reason,) = (line for line in reply.stderr.splitlines() if not line.startswith("make: "))
    assert reason.startswith("error: ")
