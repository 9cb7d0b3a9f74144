"""Every command of the documents is run, on small networks in the demo's place; or it says why not here.

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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from trt_code.tests import small_demo
from trt_code.tests.test_docs import ROOT, command_lines
from trt_code.tests.warm_python import warm_python
from trt_code.triton import client

COMMANDS = [
    *command_lines("make"),
    *command_lines(r"python3? -m (?:train_model|onnx_export|trt_code)\.\S+"),
    *command_lines(r"python3? [a-z_/]+\.py"),
    *command_lines(r"build/(?:triton/\w+\.sh|plugins/lite_plugin_host\S*)"),
    *command_lines(r"(?:docker|torchrun|curl|perf_analyzer|pip|apt) \S+"),
]
# What is not run by this test, and why; the first that fits a command counts.
ELSEWHERE = {
    r"make (download|audit|lock|env)\b|pip |apt ": "reaches for the network",
    r"make (lint|test)\b": "is what runs this",
    r"docker |curl |perf_analyzer |build/triton/": "needs a container engine or a server",
    r".* -m trt_code\.triton\.client": "needs a server; test_triton_client.py plays one",
    r"make (train|distill|qat|ptq|sensitivity)\b|torchrun|.* -m train_model\.(train|distill|data\.prepare)": (
        "makes a corpus and trains; test_fairseq_training.py does it in seconds"
    ),
    r".* -m train_model\.(loss_curves|quantization)": "reads what trainings leave",
    r".*engine-|.*build_engine|.*--runner trt|make plugins|build/plugins/": "needs TensorRT",
    r"make (torch-ops|test-gpu)|.*bench_kernels": "needs nvcc and a GPU",
    r".*--device cuda|make sweep|.*(trt_code\.sweep|throughput)": "measures a GPU",
    r".*(layer_precision|roofline)": "reads what TensorRT or a GPU left",
    r".*--measured build/load\.json": "reads what a client of the server measured",
    r".* -m (onnx_export\.(export|verify)|trt_code\.bench) ": "make onnx, verify and bench run it",
    r"make patch PRECISION=int8": "calibrates first; test_int8.py does it",
    r".*trt_code\.tests\.(fuzz|under_load|mistreat)": "runs for long; tests run a little of it",
    r"make compare|.*trt_code\.compare": "times for minutes; test_compare.py does it in seconds",
    r"python doc/porting/": "test_doc_porting.py runs it",
    r"python doc/figures/": "test_docs.py runs it",
    r".*\.\.\.|.*/path/to/|.*wmt16|.*<": "names no file that is here",
    r"python -m \S+$": "a mention of the program",
}
TO_BE_RUN = [
    command for command in COMMANDS if not any(re.match(rule, command) for rule in ELSEWHERE)
]


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
    assert len(TO_BE_RUN) > 15


@pytest.mark.parametrize("command", TO_BE_RUN)
def test_command(command, workshop):
    if "results.json" in command and not (workshop / "build/bench/results.json").is_file():
        run("make bench", workshop)
    if command.startswith("make report"):
        run("python -m trt_code.bench --runner ort --precision fp32 --shape 1x8", workshop)
    printed = run(command, workshop)
    if "translate" in command and "hundred" in command:
        assert printed.count("\n") == 1
