"""Makes targets under kills, races and full disks, then once undisturbed; prints a table of the outcomes.

    python -m trt_code.stress.mistreat --times 10 --how kill,twice --only patch,triton

Each target runs in a copy of this checkout, first undisturbed. Then it is made again ``--times`` times

- ``kill``: its whole process group is killed (-9), every other time at a random moment, else right at
  a change in the build folder, where something is being written;
- ``twice``: two runs at once;
- ``full``: the disk that the build folder is on is full after a random share of what is written;
- ``read-only``: the build folder takes no write.

Every file with a final name must then be complete. A full or read-only disk must give one line and status
2. The next run must succeed and leave the same files as the undisturbed run. The last two ways mount a
file system in a new user namespace.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from train_model.cli import Parser, add_count, run
from train_model.data.corpora import CORPORA, demo
from train_model.models.checkpoint import load_checkpoint
from train_model.progress import track
from trt_code.arguments import parse_names
from trt_code.stress import check_asserts
from trt_code.tests.runners import small_demo

PAGE = 4096
TEXT = "three hundred and forty-two"


@dataclass(frozen=True)
class Target:
    """A target to make.

    Attributes:
        needs: targets that must exist already; the files of the target itself are made again each time.
        make: options of ``make``, if it is a target of the Makefile.
        small: a module and its options, called by ``SMALL``, if the real target takes hours.
    """

    needs: tuple[str, ...] = ()
    make: tuple[str, ...] = ()
    small: tuple[str, ...] = ()


def shrink_corpus() -> None:
    """Make the corpus ``demo`` so small that trainings take seconds, with the options in ``TARGETS``."""
    sizes = {"train": 300, "valid": 16, "test": 16}
    small = functools.partial(demo.prepare, sizes=sizes, merges=40)
    CORPORA["demo"] = dataclasses.replace(CORPORA["demo"], prepare=small)


SMALL = """
import importlib, sys
from train_model.cli import run
from trt_code.stress.mistreat import shrink_corpus
shrink_corpus()
run(lambda: importlib.import_module(sys.argv[1]).main(sys.argv[2:]))
"""


def _training(recipe: str, options: str) -> tuple[str, ...]:
    common = "batch_size=16 num_workers=0 warmup_updates=2 cpu=true "
    sets = [word for option in (common + options).split() for word in ("--set", option)]
    return ("train_model.train", "--recipe", recipe, *sets)


ONE_LAYER = "encoder_layers=1 decoder_layers=1 "
ONE_PASS = (
    "encoder_embed_dim=16 decoder_embed_dim=16 encoder_ffn_embed_dim=16 decoder_ffn_embed_dim=16 "
    "crf_lowrank_approx=4 crf_beam_approx=8 encoder_kernel_size_list=[3] decoder_kernel_size_list=[3] "
    "encoder_attention_heads=2 decoder_attention_heads=2 total_num_update=20 max_update=60"
)
SMALL_SWEEP = "SWEEP=--device cpu --blocks torch:fp32,ort:fp32 --batches 1 --lengths 8 --repeats 3"
SMALL_COMPARISON = "--device cpu --limit 8 --batch 1,4 --repeats 3 --entry demo:ort-split:fp32"
GREEDY_TEACHER = "--teacher build/demo-ar/checkpoint.pt --beam 1 --device cpu"
FEW_LINES = "THROUGHPUT=--device cpu --generate 200 --repeats 1"
TARGETS = {
    "onnx": Target(),
    "onnx-split": Target(),
    "patch": Target(("onnx",)),
    "patch-split": Target(("onnx-split",)),
    "verify": Target(("onnx",)),
    "eval": Target(("onnx", "onnx-split", "patch")),
    "translate": Target(("onnx-split",), (f"TEXT={TEXT}",)),
    "bench": Target(("onnx", "onnx-split", "patch")),
    "report": Target(("onnx", "onnx-split", "patch", "bench")),
    "sweep": Target(("onnx", "onnx-split", "patch"), (SMALL_SWEEP,)),
    "throughput": Target(("onnx", "onnx-split"), (FEW_LINES,)),
    "compare": Target(
        ("onnx-split",), small=("trt_code.measure.compare", *SMALL_COMPARISON.split())
    ),
    "triton": Target(("onnx",)),
    "ptq": Target(),
    "sensitivity": Target((), ("SENSITIVITY=--sentences 8 --calibration 8",)),
    "train": Target(small=_training("demo", ONE_LAYER + ONE_PASS)),
    "train-ar": Target(small=_training("demo-ar", ONE_LAYER + "max_update=40")),
    "distill": Target(("train-ar",), small=("train_model.distill", *GREEDY_TEACHER.split())),
    "torch-ops": Target((), ("CMAKE_FLAGS=-DLITE_CUDA_ARCHITECTURES=90-real",)),
    "plugins": Target((), ("CMAKE_FLAGS=-DLITE_CUDA_ARCHITECTURES=90-real",)),
}


class Tree:
    """A copy of the checkout with small networks for the demo, in which targets are made and killed."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        small_demo.copy_checkout(folder)
        self.folder, self.build, self._python = folder, folder / "build", python

    def command(self, target: str) -> list[str]:
        """Return a user's command line for ``target``, or a small form if that takes hours."""
        if small := TARGETS[target].small:
            return [self._python, "-c", SMALL, *small]
        return ["make", target, f"PYTHON={self._python}", *TARGETS[target].make]

    def start(self, target: str, *prefix: str) -> subprocess.Popen:
        """Start ``target`` in a new process group, with the command ``prefix`` before it."""
        return subprocess.Popen(
            [*prefix, *self.command(target)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def make(self, target: str) -> None:
        """Make ``target`` undisturbed.

        Raises:
            AssertionError: it does not end with status 0.
        """
        process = self.start(target)
        _, errors = process.communicate()
        assert process.returncode == 0, f"{target}: {errors[-2000:]}"

    def size(self) -> int:
        """Return the bytes of the build folder on a disk, in whole pages."""
        return sum(-(-size // PAGE) * PAGE for _, size, _ in self.state())

    def state(self) -> tuple:
        """Return names, sizes and times of all files in the build folder, which change with every write."""
        found = []
        # os.walk continues if a folder disappears
        for folder, folders, files in os.walk(self.build):
            for name in (*folders, *files):
                with contextlib.suppress(OSError):
                    path = os.path.join(folder, name)
                    facts = os.stat(path)
                    found.append((path, facts.st_size, facts.st_mtime_ns))
        return tuple(sorted(found))

    def artefacts(self) -> dict[str, str]:
        """Return the files with final names, and hashes of their content."""
        return {
            str(path.relative_to(self.build)): _content(path)
            for path in sorted(self.build.rglob("*"))
            if path.is_file() and not _is_scratch(path.relative_to(self.build))
        }

    def faults(self, good: dict[str, str] | None = None) -> list[str]:
        """Return the files that are incomplete, missing, or different from the artefacts ``good``."""
        found = self.artefacts()
        wrong = [
            f"half-written: {name} ({reason})"
            for name in found
            if (reason := fault(self.build / name))
        ]
        for name, content in (good or {}).items():
            if name not in found:
                wrong.append(f"missing: {name}")
            elif name.endswith(".onnx") and found[name] != content:
                wrong.append(f"another {name} than undisturbed")
        return wrong


def _content(path: Path) -> str:
    """Return a hash of a graph's operators and weights that does not depend on their order."""
    content = path.read_bytes()
    if path.suffix == ".onnx":
        with contextlib.suppress(DecodeError):  # damaged: hash its bytes
            graph = onnx.load_from_string(content).graph
            weights = sorted(tensor.SerializeToString() for tensor in graph.initializer)
            operators = sorted(node.op_type.encode() for node in graph.node)
            content = b"".join([*weights, *operators])
    return hashlib.sha256(content).hexdigest()


def _is_scratch(path: Path) -> bool:
    """Whether a file is not a result: temporary names, compilers' folders, fairseq's logs and parts."""
    return (
        any(part.startswith(".") for part in path.parts)
        or path.parts[0] == "cmake"
        or path.suffix in (".tmp", ".log")
    )


def fault(path: Path) -> str | None:
    """Return why a file is not a complete one of its kind, or None if it looks complete."""
    content = path.read_bytes()
    try:
        match path.suffix:
            case ".onnx":
                onnx.checker.check_model(onnx.load_from_string(content))
            case ".json":
                json.loads(content)
            case ".pt":
                load_checkpoint(path)
            case ".npz":
                np.load(path)
            case ".so":
                _check_library(content)
            case ".png" if not content.endswith(b"IEND\xaeB`\x82"):
                return "ends early"
            case ".md" | ".txt" | ".en" | ".de" | ".codes" if not content.endswith(b"\n"):
                return "ends early"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:100]}"
    return None


def _check_library(content: bytes) -> None:
    """Raise ``ValueError`` unless an ELF file reaches to the end of its section headers, its last part."""
    if content[:4] != b"\x7fELF":
        raise ValueError("no ELF file")
    (start,) = struct.unpack_from("<Q", content, 0x28)
    size, count = struct.unpack_from("<HH", content, 0x3A)
    if start == 0 or len(content) < start + size * count:
        raise ValueError("ends early")


@dataclass
class Trial:
    """One mistreated run of a target.

    Attributes:
        seconds, written: the time and the bytes of the undisturbed run.
        number: the number of earlier runs.
    """

    tree: Tree
    target: str
    seconds: float
    written: int
    number: int
    chance: random.Random


def kill(trial: Trial) -> list[str]:
    """Kill the target's processes while they work."""
    tree = trial.tree
    process = tree.start(trial.target)
    if trial.number % 2 == 0:
        before, writes = tree.state(), trial.chance.randint(1, 4)
        while process.poll() is None and writes:
            if (now := tree.state()) != before:
                before, writes = now, writes - 1
        time.sleep(trial.chance.random() * 0.02)
    else:
        deadline = time.monotonic() + trial.chance.random() * trial.seconds
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return []


def twice(trial: Trial) -> list[str]:
    """Start two runs at once, the second a moment after the first."""
    first = trial.tree.start(trial.target)
    time.sleep(trial.chance.random() * trial.seconds / 2)
    second = trial.tree.start(trial.target)
    wrong = []
    for process in (first, second):
        _, errors = process.communicate()
        if process.returncode:
            wrong.append(f"one of two runs failed: {errors[-1000:]}")
    return wrong


# The mount ends with the namespace of the command, so the written files are copied out.
MOUNTED = """
mv build outside && mkdir build && mount -t tmpfs -o size="$1" none build && cp -a outside/. build/ || exit 99
if [ "$2" = ro ]; then mount -o remount,ro build; fi
shift 2
"$@"
status=$?
cp -a build/. outside/ && umount build && rmdir build && mv outside build || exit 99
exit $status
"""


def full(trial: Trial) -> list[str]:
    """Run on a disk with room for the existing files and a part of the new ones."""
    room = trial.tree.size() + int(trial.chance.uniform(0.02, 0.95) * trial.written)
    return _on_a_disk(trial, f"{room // 1024 + 16}k", "rw")


def read_only(trial: Trial) -> list[str]:
    """Run on a read-only disk."""
    return _on_a_disk(trial, "50%", "ro")


def _on_a_disk(trial: Trial, size: str, access: str) -> list[str]:
    prefix = ("unshare", "--map-root-user", "--mount", "sh", "-c", MOUNTED, "sh", size, access)
    process = trial.tree.start(trial.target, *prefix)
    _, errors = process.communicate()
    assert process.returncode != 99, f"the disk of the trial could not be made: {errors[-500:]}"
    reasons = [line for line in errors.splitlines() if line.startswith("error: ")]
    if process.returncode == 0:
        return []  # everything fitted, or nothing was written
    if process.returncode != 2 or len(reasons) != 1 or "Traceback" in errors:
        return [f"status {process.returncode} and not one line: {errors[-1500:]}"]
    return []


HOW = {"kill": kill, "twice": twice, "full": full, "read-only": read_only}


def trials(
    tree: Tree, target: str, hows: list[str], times: int, seed: int
) -> Iterator[tuple[str, list[str]]]:
    """Mistreat ``target`` ``times`` times in every way; yield the way and the faults found."""
    for need in TARGETS[target].needs:
        tree.make(need)
    base = tree.folder / "base"
    tree.build.mkdir(exist_ok=True)
    shutil.copytree(tree.build, base)
    before, start = tree.size(), time.monotonic()
    tree.make(target)
    seconds, written, good = time.monotonic() - start, tree.size() - before, tree.artefacts()
    for how in hows:
        for number in range(times):
            shutil.rmtree(tree.build)
            shutil.copytree(base, tree.build)  # keeps the times, so that make finds it up to date
            chance = random.Random(f"{target} {how} {seed + number}")
            wrong = HOW[how](Trial(tree, target, seconds, written, number, chance))
            wrong += tree.faults()
            try:
                tree.make(target)
            except AssertionError as error:
                wrong.append(f"the next run failed: {error}")
            yield how, wrong + tree.faults(good)
    shutil.rmtree(base)
    shutil.rmtree(tree.build)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m trt_code.stress.mistreat", description=__doc__)
    add_count(parser, "--times", 10, "runs of each target and way")
    add_count(parser, "--seed", 1, "seed of the moments", least=0)
    parser.add_argument("--how", default=",".join(HOW), help="comma-separated")
    parser.add_argument("--only", default=",".join(TARGETS), help="targets, comma-separated")
    arguments = parser.parse_args(argv)
    check_asserts()
    chosen = parse_names(arguments.only, list(TARGETS), "target")
    hows = parse_names(arguments.how, list(HOW), "way")
    faults = 0
    with tempfile.TemporaryDirectory(prefix="mistreat-") as folder:
        tree = Tree(Path(folder))
        print(f"| target | {' | '.join(hows)} |\n| --- |{' --- |' * len(hows)}")
        for target in chosen:
            counts = {how: [0, 0] for how in hows}
            runs = trials(tree, target, hows, arguments.times, arguments.seed)
            total = arguments.times * len(hows)
            for how, wrong in track(runs, f"make {target}", total, "runs"):
                counts[how][0] += 1
                counts[how][1] += bool(wrong)
                for line in wrong:
                    print(f"{target}, {how}: {line}", file=sys.stderr, flush=True)
            row = [f"{wrong} of {times}" for times, wrong in counts.values()]
            print(f"| `{target}` | {' | '.join(row)} |", flush=True)
            faults += sum(wrong for _, wrong in counts.values())
    return 1 if faults else 0


if __name__ == "__main__":
    run(main)
