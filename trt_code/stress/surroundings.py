"""Runs commands with closed, broken or ASCII streams, full or read-only disks, and Ctrl-C.

    python -m trt_code.stress.surroundings --only translate,export --how full,interrupted

Each command does a small piece of real work with small networks, first undisturbed. The first column of the
table says how that ends: "done", or "refused" if something is missing, such as Ray. Then it runs ``--times``
times in each way of ``HOW``. It must then end as undisturbed, or with status 2 and one line, with 130 after
Ctrl-C, or with 141 if the reader of its output has gone. The files that it writes must be whole, old or new,
and no temporary file may be left.

Every command runs in a fork of this process, which has loaded its modules. Full and read-only disks are
mounted in a new namespace, which needs root.
"""

import contextlib
import ctypes
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from train_model.cli import NO_READER, Parser, UserError, run, whole_number
from train_model.data.corpora import prepare
from train_model.data.dictionary import Dictionary
from train_model.model_folder import find_model
from train_model.models.checkpoint import save_checkpoint
from train_model.models.transformer_multibranch_v2 import TransformerMultibranch
from train_model.tests.model_pieces import hub_archive
from train_model.tests.networks import step_by_step
from trt_code.arguments import parse_names
from trt_code.stress.mistreat import PAGE, TARGETS, fault, shrink_corpus
from trt_code.tests.runners import small_demo

INTERRUPTED = 128 + signal.SIGINT
DEADLINE = 300  # seconds until a command counts as hanging
BROKEN = 99  # the status of a fork that failed before its command
TEXT = b"two hundred and three\nseven\n"
_NEW_MOUNTS, _READ_ONLY, _REMOUNT, _PRIVATE = (
    0x20000,
    1,
    32,
    0x44000,
)  # Linux's CLONE_NEWNS and MS_*


@dataclass(frozen=True)
class Command:
    """A command of the project that does a small piece of work.

    Attributes:
        module: its module.
        options: its options; ``{name}`` is one of ``Room.paths``.
        text: what is on its stdin.
    """

    module: str
    options: str = ""
    text: bytes = b""


MODEL = "--model {demo} --build-dir {build}"
CPU = MODEL + " --device cpu --threads 1"
PAIR = "--build-dir {build} --device cpu --threads 1 --limit 4 --entry {demo}:torch:fp32"
CHECKPOINT = "--checkpoint {demo}/checkpoint.pt"
ROOT = small_demo.ROOT
RESULTS = ROOT / "doc" / "results"
ROOFLINE = f"--kernels {RESULTS}/h100/kernels.json --ceilings {RESULTS}/h100/sweep/roofline.json"
NOWHERE = "127.0.0.1:9"  # no server answers there
COMMANDS = {
    "models": Command("train_model.model_folder", "--list"),
    "model": Command("train_model.model_folder", "--make {demo}"),
    "model-stats": Command("train_model.model_stats", "--recipe demo"),
    "import": Command(
        "train_model.import_model", "--from {archive} --languages en-de --models {out}"
    ),
    "native": Command("trt_code.native.export", CHECKPOINT + " --output {out}/a.safetensors"),
    "compact": Command("train_model.compact", CHECKPOINT + " --output {out}/a.safetensors"),
    "translate": Command("trt_code.translate", CPU + " --runner torch", TEXT),
    "translate-native": Command("trt_code.translate", CPU + " --runner native --n-best 2", TEXT),
    "translate-word": Command("trt_code.translate", CPU + " --runner torch -- seven"),
    "translate-ort": Command("trt_code.translate", CPU + " --runner ort --format json", TEXT),
    "eval": Command(
        "trt_code.evaluate", CPU + " --runner torch --precision fp32 --limit 4 --output {out}/a"
    ),
    "cost": Command(
        "trt_code.triton.cost", f"--measured {RESULTS}/cpu/results.json --price-per-hour 2"
    ),
    "plans": Command("trt_code.engine.plans", MODEL),
    "tensorrt": Command("trt_code.engine.install", "--never"),
    "doctor": Command("trt_code.doctor", "--require cmake"),
    "headers": Command("trt_code.headers", f"--source http://{NOWHERE} --output {{out}}/headers"),
    "download": Command(
        "train_model.data.download", f"--mirror http://{NOWHERE} --attempts 1 --output {{out}}/a"
    ),
    "triton-client": Command("trt_code.triton.client", f"--url {NOWHERE}", TEXT),
    "kernels": Command("trt_code.measure.kernels", "--output {out}/a"),
    "int8-gemm": Command("trt_code.measure.int8_gemm", "--output {out}/a"),
    "export": Command("onnx_export.export", CHECKPOINT + " --output {out}/a.onnx"),
    "export-split": Command("onnx_export.export", CHECKPOINT + " --output {out}/a.onnx --split"),
    "verify": Command("onnx_export.verify", CHECKPOINT + " --onnx {graph}"),
    "patch": Command(
        "trt_code.onnx_surgeon", "--input {graph} --output {out}/a.onnx --precision fp16"
    ),
    "lint": Command("trt_code.graph_lint", "{patched}"),
    "engine": Command("trt_code.build_engine", "--onnx {plain} --output {out}/a.plan --max 1x32"),
    "engine-builds": Command(
        "trt_code.measure.engine_builds", MODEL + " --only *plain* --output {out}/a"
    ),
    "triton": Command("trt_code.triton.repository", MODEL + " --output {out}/triton"),
    "layer-precision": Command("trt_code.measure.layer_precision", "{graph}"),
    "bench": Command(
        "trt_code.bench",
        CPU + " --runner torch --precision fp32 --shape 1x8 --seconds 0.1 --output {out}/a",
    ),
    "report": Command(
        "trt_code.report", f"--results {RESULTS}/cpu/results.json --output {{out}}/a"
    ),
    "loss-curves": Command("train_model.loss_curves", "a={log} --output {out}/a"),
    "roofline": Command("trt_code.measure.roofline", ROOFLINE + " --output {out}/a"),
    "throughput": Command(
        "trt_code.measure.throughput",
        CPU + " --runner torch --generate 50 --repeats 1 --output {out}/a",
    ),
    "sweep": Command(
        "trt_code.measure.sweep",
        CPU + " --blocks torch:fp32 --batches 1 --lengths 8 --repeats 3 --output {out}/a",
    ),
    "compare": Command(
        "trt_code.measure.compare", PAIR + " --batch 1 --repeats 3 --output {out}/a"
    ),
    "trade-off": Command("trt_code.measure.trade_off", PAIR + " --output {out}/a"),
    "forced-length": Command(
        "trt_code.measure.forced_length",
        "--threads 1 --sentences 8 --rounds 1 --beam 1 --output {out}/a",
    ),
    "growth": Command(
        "trt_code.measure.growth",
        "--model {demo} --batch 1 --length 4 --width 64 --threads 1 --repeats 1 --output {out}/a",
    ),
    "single-sentences": Command(
        "trt_code.measure.single_sentences",
        MODEL + " --runner torch --limit 3 --callers 1,2 --output {out}/a",
    ),
    "ptq": Command("train_model.quantization.ptq", MODEL + " --sentences 8 --output {out}/a.pt"),
    "sensitivity": Command(
        "train_model.quantization.sensitivity",
        MODEL + " --sentences 4 --calibration 4 --output {out}/a",
    ),
    "corpus": Command("train_model.data.prepare", "--corpus demo --build-dir {out}"),
    "train": Command(
        "train_model.train", " ".join(TARGETS["train"].small[1:]) + " --build-dir {out}"
    ),
    "distill": Command(
        "train_model.distill",
        "--corpus demo --teacher {teacher} --beam 1 --device cpu --build-dir {out}",
    ),
    "corpora": Command("trt_code.measure.corpora", "--model {demo} --rows 4 --output {out}/a"),
    "translate-corpus": Command(
        "trt_code.translate_corpus", "--model {demo} --input {demo}/test.en --output {out}/corpus"
    ),
    "fuzz": Command("trt_code.stress.fuzz", "--cases 1 --only dictionary"),
    "batch-neighbours": Command(
        "trt_code.stress.batch_neighbours", MODEL + " --runner torch --device cpu --lines 4"
    ),
    "under-load": Command(
        "trt_code.stress.under_load",
        MODEL + " --runner torch --device cpu --sentences 200 --pool 50 --threads 2 --passes 8"
        " --output {out}/a.json",
    ),
}


class Room:
    """A folder with small models and what the commands read, and the folder ``out`` that they write.

    ``from_disk`` receives what a command wrote on a disk of its own.
    """

    def __init__(self, folder: Path, chosen: list[str]) -> None:
        """Make the files that the ``chosen`` commands read in an empty ``folder``."""
        self.folder, self.out, self.from_disk = folder, folder / "out", folder / "from_disk"
        self.out.mkdir()
        demo = small_demo.put_into(folder)
        built = folder / "build" / find_model(str(demo)).name
        self.paths = {
            "demo": demo,
            "demo-ar": folder / "data_model" / "demo-ar",
            "build": folder / "build",
            "out": self.out,
            "graph": built / "model.onnx",
            "patched": built / "model.fp16.onnx",
            "plain": built / "model.fp16.plain.onnx",
            "archive": hub_archive(folder),
            "log": folder / "train.log",
        }
        if "distill" in chosen:
            self.paths["teacher"] = _teacher(folder)
        entry = '| train_inner | {"num_updates": "2", "loss": "9", "gnorm": "1"}\n'
        self.paths["log"].write_text(entry * 3)
        patch = "--input {graph} --precision fp16 --output "
        ready = [
            Command(
                "trt_code.native.export", f"{CHECKPOINT} --output {built}/model.native.safetensors"
            )
        ]
        graphs = ("{graph}", "{patched}", "{plain}", "--runner ort", "repository", "engine_builds")
        used = " ".join(COMMANDS[name].module + COMMANDS[name].options for name in chosen)
        if any(word in used for word in graphs):
            ready += [
                Command("onnx_export.export", CHECKPOINT + " --output {graph}"),
                Command("trt_code.onnx_surgeon", patch + "{patched}"),
                Command("trt_code.onnx_surgeon", patch + "{plain} --plugins none"),
            ]
        for command in ready:
            done = start(self, command)
            if done.status:
                raise UserError(f"{command.module} fails undisturbed: {done.errors[-300:]}")

    def arguments(self, command: Command) -> list[str]:
        """Return the command's options with the room's paths."""
        paths = {name: str(path) for name, path in self.paths.items()}
        return [word.format_map(paths) for word in command.options.split()]

    def written(self) -> dict[str, bytes]:
        """Return the content of the files in ``out`` by their names."""
        files = [path for path in sorted(self.out.rglob("*")) if path.is_file()]
        return {str(path.relative_to(self.out)): path.read_bytes() for path in files}

    def put_back(self, content: dict[str, bytes]) -> None:
        """Make ``out`` contain these files alone."""
        shutil.rmtree(self.out)
        self.out.mkdir()
        _write(self.out, content)


def _teacher(folder: Path) -> Path:
    """Make a network that translates the small corpus' words step by step, with random weights."""
    words = len(Dictionary.load(prepare("demo", folder / "corpus") / "dict.en.txt"))
    sizes = {"src_vocab": words, "tgt_vocab": words, "encoder_layers": 1, "decoder_layers": 1}
    config = step_by_step(16, **sizes, max_source_positions=1024, max_target_positions=1024)
    path = folder / "teacher.pt"
    save_checkpoint(path, TransformerMultibranch(config), config)
    return path


def _write(folder: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@dataclass
class Outcome:
    """How a command ended: status (negative for a signal), output, errors, and the seconds it took."""

    status: int
    output: bytes
    errors: str
    seconds: float


def start(
    room: Room,
    command: Command,
    disturb: Callable[[], None] = lambda: None,
    encoding: str = "utf-8",
    ctrl_c: float | None = None,
) -> Outcome:
    """Run a command in a fork.

    Args:
        disturb: changes the process before the command.
        encoding: of its standard streams.
        ctrl_c: the seconds after which it gets Ctrl-C.
    """
    with contextlib.ExitStack() as stack:
        text, output, errors = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        text.write(command.text)
        text.seek(0)
        ready = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.setsid()
                for number, file in enumerate((text, output, errors)):
                    os.dup2(file.fileno(), number)
                _become(room, command, disturb, encoding, ready)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(BROKEN)
        os.close(ready[1])
        os.read(ready[0], 1)
        os.close(ready[0])
        status, seconds = _wait(child, ctrl_c)
        if room.from_disk.exists():
            shutil.rmtree(room.out)
            room.from_disk.rename(room.out)
        return Outcome(status, _content(output), _content(errors).decode(errors="replace"), seconds)


def _become(
    room: Room,
    command: Command,
    disturb: Callable[[], None],
    encoding: str,
    ready: tuple[int, int],
) -> None:
    """Run the command as the interpreter would, and end the process."""
    os.chdir(room.folder)
    main = importlib.import_module(command.module).main
    disturb()
    sys.stdin, sys.stdout, sys.stderr = (
        _stream(number, mode, encoding) for number, mode in enumerate("rww")
    )
    sys.argv = [command.module, *room.arguments(command)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.write(ready[1], b".")
    for end in ready:
        os.close(end)
    status = 1
    try:
        run(lambda: main(sys.argv[1:]))
    except SystemExit as left:
        status = left.code
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:
        status = 120  # the interpreter's own
    if os.path.ismount(room.out):  # the disk ends with this process
        shutil.copytree(room.out, room.from_disk)
    os._exit(status)


def _stream(number: int, mode: str, encoding: str) -> IO[str] | None:
    """Return a standard stream, or None if it is closed, as the interpreter has it."""
    try:
        os.fstat(number)
    except OSError:
        return None
    errors = "backslashreplace" if number == sys.__stderr__.fileno() else "strict"
    return open(number, mode, encoding=encoding, errors=errors, closefd=False)


def _wait(child: int, ctrl_c: float | None) -> tuple[int, float]:
    """Wait for the process, and give it Ctrl-C in time; return its status and its seconds."""
    begin, found = time.monotonic(), 0
    while not found:
        found, status = os.waitpid(child, os.WNOHANG)
        passed = time.monotonic() - begin
        late = passed > DEADLINE
        if not found and (late or (ctrl_c is not None and passed > ctrl_c)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL if late else signal.SIGINT)
            ctrl_c = None
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # processes that it has left behind
    return os.waitstatus_to_exitcode(status), passed


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _no_reader() -> None:
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 1)
    os.close(write)


def _full_stdout() -> None:
    device = os.open("/dev/full", os.O_WRONLY)
    os.dup2(device, 1)
    os.close(device)


def _disk(folder: Path, size: int, flags: int = 0) -> None:
    """Mount a disk of ``size`` bytes at ``folder`` for this process, with the files of that folder."""
    content = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    libc = ctypes.CDLL(None, use_errno=True)
    place, options = os.fsencode(folder), f"size={size}".encode()

    def mount(flags: int, kind: bytes | None = b"tmpfs", place: bytes = place) -> int:
        return libc.mount(b"none", place, kind, flags, options if place != b"/" else None)

    if libc.unshare(_NEW_MOUNTS) or mount(_PRIVATE, None, b"/") or mount(0):
        raise OSError(ctypes.get_errno(), "no disk can be mounted; run as root")
    _write(folder, content)
    if flags and mount(_REMOUNT | flags, None):
        raise OSError(ctypes.get_errno(), "the disk cannot be made read-only")


HOW = (
    *("stdin-closed", "stdout-closed", "no-reader", "stdout-full", "ascii", "latin-1"),
    *("read-only", "full", "interrupted"),
)


def disturbed(
    room: Room, command: Command, how: str, whole: Outcome, made: dict[str, bytes], share: float
) -> Outcome:
    """Run a command in one way.

    Args:
        whole, made: its outcome and files undisturbed.
        share: of its time until Ctrl-C, or of its files that the disk has room for.
    """
    size = sum(-(-len(data) // PAGE) * PAGE for data in made.values())
    match how:
        case "ascii" | "latin-1":
            return start(room, command, encoding=how)
        case "interrupted":
            return start(room, command, ctrl_c=share * whole.seconds)
        case "full":  # of old files and a share of the new ones
            room_for = size + int(share * size) // PAGE * PAGE + PAGE
            return start(room, command, lambda: _disk(room.out, room_for))
        case "read-only":
            return start(room, command, lambda: _disk(room.out, size + PAGE, _READ_ONLY))
    disturb = {
        "stdin-closed": lambda: os.close(0),
        "stdout-closed": lambda: os.close(1),
        "no-reader": _no_reader,
        "stdout-full": _full_stdout,
    }
    return start(room, command, disturb[how])


def faults(
    room: Room, how: str, outcome: Outcome, whole: Outcome, made: dict[str, bytes]
) -> list[str]:
    """Return what is wrong with the outcome and the files of a disturbed command."""
    allowed = {whole.status, 2} | {
        "no-reader": {NO_READER},
        "stdout-closed": set(),
        "interrupted": {INTERRUPTED},
    }.get(how, set())
    found = []
    if outcome.status not in allowed or (how == "stdout-closed" and outcome.status != 2):
        found.append(f"status {outcome.status}")
    if "Traceback" in outcome.errors or "Exception ignored" in outcome.errors:
        found.append("a traceback")
    reasons = [line for line in outcome.errors.splitlines() if line.startswith("error: ")]
    if len(reasons) != (outcome.status == 2):
        found.append(f"{len(reasons)} lines of errors")
    if how in ("ascii", "latin-1") and not made and outcome.output != whole.output:
        found.append("another output")
    for name in made.keys() - room.written().keys():
        found.append(f"{name} is lost")
    for name in room.written():
        hidden = any(part.startswith(".") for part in Path(name).parts)
        if hidden and name not in made:
            found.append(f"{name} is left")
        elif not hidden and (reason := fault(room.out / name)):
            found.append(f"{name}: {reason}")
    return [f"{each}: {outcome.errors.strip()[-800:]}" for each in found]


def undisturbed(room: Room, name: str) -> Outcome:
    """Run a command as usual.

    Raises:
        UserError: it ends with a traceback, another status than 0 to 2, or a reason in its options.
    """
    room.put_back({})
    whole = start(room, COMMANDS[name])
    wrong = any(words in whole.errors for words in ("Traceback", "see --help"))
    if whole.status not in (0, 1, 2) or wrong:
        reason = f"status {whole.status}, {whole.errors.strip()[-300:]}"
        raise UserError(f"{name} fails undisturbed: {reason}")
    return whole


def trials(
    room: Room, name: str, whole: Outcome, hows: list[str], times: int, seed: int
) -> Iterator[tuple[str, list[str]]]:
    """Run a command in every way after it ran undisturbed; yield the way and the faults found."""
    command, made = COMMANDS[name], room.written()
    for how in hows:
        for number in range(times):
            room.put_back(made)
            share = random.Random(f"{name} {how} {seed + number}").random()
            outcome = disturbed(room, command, how, whole, made, share)
            yield how, faults(room, how, outcome, whole, made)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m trt_code.stress.surroundings", description=__doc__)
    parser.add_argument("--times", type=whole_number(1), default=1, help="of each command and way")
    parser.add_argument("--seed", type=whole_number(0), default=1)
    parser.add_argument("--how", default=",".join(HOW), help="comma-separated")
    parser.add_argument("--only", default=",".join(COMMANDS), help="commands, comma-separated")
    arguments = parser.parse_args(argv)
    chosen = parse_names(arguments.only, list(COMMANDS), "command")
    hows = parse_names(arguments.how, list(HOW), "way")
    for name in chosen:  # without what its runs would import later, such as Ray
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(COMMANDS[name].module)
    shrink_corpus()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="surroundings-") as folder:
        room = Room(Path(folder), chosen)
        print(
            f"| command | undisturbed | {' | '.join(hows)} |\n| --- | --- |{' --- |' * len(hows)}"
        )
        for name in chosen:
            counts = dict.fromkeys(hows, 0)
            whole = undisturbed(room, name)
            # no progress bar: its thread could hold a lock when the process forks
            for how, found in trials(room, name, whole, hows, arguments.times, arguments.seed):
                counts[how] += bool(found)
                for line in found:
                    print(f"{name}, {how}: {line}", file=sys.stderr, flush=True)
            row = ["refused" if whole.status == 2 else "done"]
            row += [f"{count} of {arguments.times}" for count in counts.values()]
            print(f"| `{name}` | {' | '.join(row)} |", flush=True)
            wrong += sum(counts.values())
    return 1 if wrong else 0


if __name__ == "__main__":
    run(main)
