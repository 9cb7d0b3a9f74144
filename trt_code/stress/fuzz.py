"""Damages input files and checks that each program gives a result or one clear line.

    python -m trt_code.stress.fuzz --cases 500 --seed 1

runs this number of cases of every target and prints a table; ``test_fuzz.py`` runs a few of each. A case is
its target and a number, so a failure is repeated with ``--only TARGET --seed NUMBER --cases 1``.
"""

import contextlib
import faulthandler
import hashlib
import io
import json
import os
import random
import shutil
import sys
import tarfile
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest import mock

import numpy as np
import safetensors.numpy
import torch
import yaml

from onnx_export import export
from onnx_export.checked import is_checked
from onnx_export.onnx_file import load_onnx
from onnx_export.step_session import StepSession
from onnx_export.verify_one_pass import open_session
from train_model import import_model, loss_curves, recipe
from train_model.cli import Parser, UserError, add_count, run
from train_model.data.corpora.demo import GLOSSARY
from train_model.data.dictionary import Dictionary
from train_model.data.files import decode_lines
from train_model.data.text import TextOptions
from train_model.data.tokenizer import Tokenizer
from train_model.data.transfer import Ledger
from train_model.model_folder import ModelFolder, find_model
from train_model.models.checkpoint import Loaded, load_checkpoint, save_checkpoint
from train_model.models.safetensors_file import save_safetensors
from train_model.progress import track
from train_model.tests.model_pieces import PIECES, write_pieces
from trt_code import graph_lint, onnx_surgeon, report
from trt_code.engine.graph_files import read_graph_files
from trt_code.engine.sidecar import FORMAT, read_sidecar, stale_reason
from trt_code.engine.tensorrt_api import FULL
from trt_code.measure import layer_precision, roofline
from trt_code.native.export import to_program as native_program
from trt_code.native.program import SUFFIX
from trt_code.runners import Unavailable, create
from trt_code.stress import check_asserts
from trt_code.stress.damage import Damage, damage, damage_checkpoint, damage_graph, damage_json
from trt_code.tests.runners.fake_runner import FakeRunner
from trt_code.text.batching import pad
from trt_code.text.translator import LineTranslator
from trt_code.triton import cost
from trt_code.triton.networks import OnnxNetwork, PlanNetwork

ROOT = Path(export.__file__).parents[1]
CHECKPOINTS = [
    ROOT / "train_model" / "tests" / "fixtures" / f"checkpoint_{kind}.pt" for kind in ("nat", "ar")
]
DESCRIBED = ROOT / "data_model" / "demo"
CEILINGS = next((ROOT / "doc" / "results").rglob("roofline.json"))
KERNELS = next((ROOT / "doc" / "results").rglob("kernels.json")).read_bytes()
LOG = b'| train_inner | {"num_updates": "2", "loss": "9", "gnorm": "1"}\n' * 3
LAYERS = (
    b'{"Layers": [{"Name": "a", "LayerType": "gemm", "Inputs": [{"Format/Datatype": "Int8"}]}]}'
)
LEDGER = b'{"x": {"size": 1, "sha256": "0", "checked": false}}'
HANG = 300  # seconds until a case counts as hanging; the slowest case takes a tenth of this
LONGEST_LINE = 1000  # characters of a refusal; it may quote ONNX Runtime, but not a whole file
WHOLE = hashlib.sha256(b"whole").hexdigest()
SIDECAR = {
    "family": FULL.name,
    "tensorrt": "10.16.0",
    "compute_capabilities": [],
    "gpu": {"name": "NVIDIA H100", "compute_capability": "9.0"},
    "graph": {"path": "built.onnx", "sha256": "0" * 64},  # missing, so nothing is compared
    "plugins": [{"path": "liblite.so", "sha256": WHOLE}],
    "profiles": [{"min": [1, 1], "opt": [1, 8], "max": [4, 16]}],
    "tf32": True,
    "version_compatible": False,
    "hardware_compatible": "none",
    "plan_sha256": WHOLE,
    "build_seconds": 1.0,
    "command": "make engine-fp16",
    "format": FORMAT,
}


class Targets:
    """The targets: kinds of files to damage, each with the code that reads it.

    Args:
        files: a small model with its text.
        built: its build folder, with ``model.onnx`` and ``model.fp16.onnx``.
        halves: the folder of an exported autoregressive network.
        folder: where the damaged files are written.
    """

    def __init__(self, files: ModelFolder, built: Path, halves: Path, folder: Path) -> None:
        self._files, self._folder = files, folder
        self._graph = (built / "model.onnx").read_bytes()
        self._patched = (built / "model.fp16.onnx").read_bytes()
        self._halves = {path.name: path.read_bytes() for path in halves.glob("*.onnx")}
        self._tokenizer = Tokenizer.from_files(files)
        self._checkpoints = [_saved_again(path, folder / "saved.pt") for path in CHECKPOINTS]
        self._tensors, self._options = _tensors(CHECKPOINTS[0], folder)
        self._programs = [_program(path, folder) for path in CHECKPOINTS]
        pieces = write_pieces(folder / "pieces")
        named = {name: pieces[option] for option, name in PIECES.items()}
        named |= {"model.pt": CHECKPOINTS[0]}
        self._pieces = {name: path.read_bytes() for name, path in named.items()}
        self._sentences = files.test_src.read_text(encoding="utf-8").split("\n")[:5]

    def all(self) -> dict[str, Callable[[random.Random], None]]:
        """Return every target by its name; each raises ``UserError`` to refuse a file."""
        return {
            "checkpoint": self.checkpoint,
            "onnx": self.onnx,
            "patched": self.patched,
            "halves": self.halves,
            "surgeon": self.surgeon,
            "recipe": self.recipe,
            "dictionary": self.dictionary,
            "bpe": self.bpe,
            "plan": self.plan,
            "sidecar": self.sidecar,
            "results": self.results,
            "documents": self.documents,
            "description": self.description,
            "safetensors": self.safetensors,
            "native": self.native,
            "import": self.imported,
            "text": self.text,
        }

    def checkpoint(self, chance: random.Random) -> None:
        """Load and run a checkpoint; a refused one must leave the existing export."""
        witness, output = self._folder / "witness", self._folder / "exported.onnx"

        def hostile(content: bytes, chance: random.Random) -> bytes:
            return damage_checkpoint(content, chance, os.mkdir, str(witness))

        if chance.random() < 0.2:
            content, how = chance.choice(CHECKPOINTS).read_bytes(), damage
        else:
            content, how = chance.choice(self._checkpoints), hostile
        path = self._write("checkpoint.pt", content, chance, how)
        try:
            loaded = load_checkpoint(path)
        except UserError:
            output.write_bytes(b"old")
            with contextlib.suppress(UserError):
                export.main(["--checkpoint", str(path), "--output", str(output)])
            assert output.read_bytes() == b"old", "a refusal overwrote the output"
            raise
        finally:
            assert not witness.exists(), "the checkpoint's code ran"
        _run(loaded)

    def onnx(self, chance: random.Random) -> None:
        """Read an ONNX file with each of its readers: the lint, the server's, verify, ONNX Runtime."""
        path = self._write(f"{self._files.name}/model.onnx", self._graph, chance, damage_graph)
        _each(
            lambda: load_onnx(path),
            lambda: read_graph_files(path),
            lambda: OnnxNetwork(path),
            lambda: graph_lint.main([str(path)]),
            lambda: open_session(path),
            lambda: self._translate("fp32"),
        )

    def patched(self, chance: random.Random) -> None:
        """Read a graph for TensorRT with each of its readers: the lint, the builder's, ONNX Runtime."""
        path = self._write(
            f"{self._files.name}/model.fp16.onnx", self._patched, chance, damage_graph
        )
        _each(
            lambda: read_graph_files(path),
            lambda: graph_lint.main([str(path)]),
            lambda: self._translate("fp16"),
        )

    def halves(self, chance: random.Random) -> None:
        """Search with the two files of an autoregressive network, one of them damaged."""
        hit = chance.choice(sorted(self._halves))
        for name, content in self._halves.items():
            how = damage_graph if name == hit else lambda content, chance: content
            self._write(f"halves/{name}", content, chance, how)
        StepSession(self._folder / "halves" / "model.onnx", threads=1)
        greedy = ModelFolder("halves", CHECKPOINTS[1], architecture="transformer_multibranch_v2")
        self._translate("fp32", greedy)

    def _translate(
        self, precision: str, files: ModelFolder | None = None, runner: str = "ort"
    ) -> None:
        """Translate two sentences, without dictionaries, which may not fit the network."""
        files = files or ModelFolder(self._files.name, CHECKPOINTS[0])
        options = {"threads": 1, "build_dir": self._folder}
        try:
            opened = create(runner, files, precision, "cpu", **options)
        except Unavailable as reason:  # as every program takes it
            raise UserError(str(reason)) from reason
        with opened:
            opened.run(pad([[0, 5, 6, 2], [0, 5, 2]]))

    def surgeon(self, chance: random.Random) -> None:
        """Patch an ONNX file; an existing output must stay if this fails."""
        path = self._write("model.onnx", self._graph, chance, damage_graph)
        output = self._folder / "patched.onnx"
        output.write_bytes(b"old")
        precision = chance.choice(["fp32", "tf32", "fp16", "bf16", "int8"])
        try:
            onnx_surgeon.main(
                ["--input", str(path), "--output", str(output), "--precision", precision]
            )
        except (UserError, SystemExit):
            assert output.read_bytes() == b"old", "a refusal overwrote the output"
            raise
        finally:
            left = [item.name for item in self._folder.iterdir() if item.name.startswith(".")]
            assert not left, f"left behind: {left}"

    def recipe(self, chance: random.Random) -> None:
        """A recipe of ``train_model/configs``."""
        name = chance.choice(recipe.names())
        content = (recipe.CONFIGS / f"{name}.yaml").read_bytes()
        self._write("recipes/damaged.yaml", content, chance)
        with mock.patch.object(recipe, "CONFIGS", self._folder / "recipes"):
            recipe.load("damaged", ["dropout=0.1"]).arguments()

    def dictionary(self, chance: random.Random) -> None:
        """A dictionary."""
        content = self._files.src_dict.read_bytes()
        Dictionary.load(self._write("dict.txt", content, chance)).index("one")

    def bpe(self, chance: random.Random) -> None:
        """Split sentences with BPE codes and their glossary, one of them damaged."""
        codes, glossary = self._files.text.codes.read_bytes(), "\n".join(GLOSSARY).encode()
        hit = chance.random() < 0.5
        path = self._write("bpe.codes", codes, chance, damage if hit else _whole)
        if not hit and chance.random() < 0.5:
            glossary += b"\n" + chance.choice(EXPLOSIVE).encode()
        self._write("bpe.glossary", glossary, chance, _whole if hit else damage)
        tokenizer = Tokenizer(
            TextOptions(codes=path), self._tokenizer.src_dict, self._tokenizer.tgt_dict
        )
        for sentence in filter(None, self._sentences):
            tokenizer.decode(tokenizer.encode(sentence))

    def plan(self, chance: random.Random) -> None:
        """Read a plan that differs from its sidecar, which must be refused."""
        built = chance.randbytes(4096)
        plan = self._write("built.plan", built, chance)
        sidecar = SIDECAR | {"plan_sha256": hashlib.sha256(built).hexdigest(), "plugins": []}
        plan.with_name("built.plan.json").write_text(json.dumps(sidecar))
        reason = stale_reason(read_sidecar(plan), plan)
        assert (reason is None) == (plan.read_bytes() == built)
        if reason:
            raise UserError(f"{plan} {reason}")

    def sidecar(self, chance: random.Random) -> None:
        """Read a damaged JSON file of a TensorRT plan."""
        plan = self._folder / "model.plan"
        for name in ("model.plan", "liblite.so", "liblite_loader.so"):
            (self._folder / name).write_bytes(b"whole")
        self._write("model.plan.json", json.dumps(SIDECAR, indent=2).encode(), chance, damage_json)
        _each(lambda: stale_reason(read_sidecar(plan), plan), lambda: PlanNetwork(plan))

    def results(self, chance: random.Random) -> None:
        """Render and price a measured table."""
        content = (ROOT / "doc" / "results" / "cpu" / "results.json").read_bytes()
        path = self._write("results/results.json", content, chance, damage_json)
        with mock.patch.object(report, "plot", lambda results, path: path.touch()):
            _each(
                lambda: report.main(["--results", str(path)]),
                lambda: cost.main(["--measured", str(path), "--price-per-hour", "2.5"]),
            )

    def documents(self, chance: random.Random) -> None:
        """Read one of the other JSON files: a log, a layer report, a checksum ledger, measured kernels."""
        kind = chance.choice(["log", "layers", "ledger", "kernels", "checked"])
        match kind:
            case "log":
                path = self._write("train.log", LOG, chance)
                loss_curves.compare({"a": loss_curves.read(path)})
            case "layers":
                layer_precision.of_engine(self._write("layers.json", LAYERS, chance, damage_json))
            case "ledger":
                path = self._write("checksums.json", LEDGER, chance, damage_json)
                Ledger(path).accept("x", path)
            case "kernels":
                path = self._write("kernels.json", KERNELS, chance, damage_json)
                output = str(self._folder / "roofline")
                with mock.patch.object(roofline, "plot", lambda results, path: path.touch()):
                    roofline.main(
                        ["--kernels", str(path), "--ceilings", str(CEILINGS), "--output", output]
                    )
            case "checked":
                path = self._write(
                    ".checked.json", b'{"model.onnx": [1, 2, 3, 4]}', chance, damage_json
                )
                assert not is_checked(path.with_name("model.onnx"))

    def description(self, chance: random.Random) -> None:
        """Read a model folder with a damaged model.yaml, or with a damaged file that it names."""
        folder = self._folder / "described"
        shutil.copytree(DESCRIBED, folder, dirs_exist_ok=True)
        hit = chance.choice(["model.yaml", "model.yaml", "dict.en.txt", "bpe.codes", "seen.txt"])
        self._write(f"described/{hit}", (DESCRIBED / hit).read_bytes(), chance)
        Tokenizer.from_files(find_model(str(folder))).encode("two")

    def safetensors(self, chance: random.Random) -> None:
        """Load and run a network of a .safetensors file, whose options are in a model.yaml."""
        hit = chance.random() < 0.7
        path = self._write(
            "tensors/model.safetensors", self._tensors, chance, damage if hit else _whole
        )
        self._write("tensors/model.yaml", self._options, chance, _whole if hit else damage)
        _run(load_checkpoint(path))

    def native(self, chance: random.Random) -> None:
        """Translate with a native program whose bytes are damaged, or the JSON in its metadata."""
        number = chance.randrange(len(CHECKPOINTS))
        metadata, tensors = self._programs[number]
        how: Damage | None = None
        if chance.random() < 0.7:
            name = chance.choice(["program", "program", "config"])
            changed = damage_json(metadata[name].encode(), chance).decode(errors="replace")
            metadata, how = metadata | {name: changed}, _whole
        content = safetensors.numpy.save(tensors, metadata)
        self._write(f"native/model{SUFFIX}", content, chance, how)
        architecture = metadata["architecture"]
        files = ModelFolder("native", CHECKPOINTS[number], architecture=architecture)
        self._translate("fp32", files, "native")

    def imported(self, chance: random.Random) -> None:
        """Import a model of fairseq's files, one of them or their archive damaged."""
        models, archive = self._folder / "models", self._folder / "hub.en-de.tar"
        shutil.rmtree(models, ignore_errors=True)
        whole = chance.random() < 0.3
        hit = None if whole else chance.choice(sorted(self._pieces))
        with tarfile.open(archive, "w") as packed:
            for name, content in self._pieces.items():
                content = damage(content, chance) if name == hit else content
                member = tarfile.TarInfo(f"hub/{name}")
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
        if whole:
            archive.write_bytes(damage(archive.read_bytes(), chance))
        options = ["--from", str(archive), "--languages", "en-de", "--name", "mine"]
        try:
            import_model.main([*options, "--models", str(models)])
        except (UserError, SystemExit):
            assert not models.exists() or not [*models.iterdir()], "a refusal left a model"
            raise

    def text(self, chance: random.Random) -> None:
        """Translate text; the output must have as many lines as the input."""
        content = damage("\n".join(self._sentences).encode(), chance)
        match chance.randrange(100):
            case 0:  # many lines
                content *= 2000
            case 1:  # one line of ten million characters
                content = content.replace(b"\n", b" ") + chance.choice([b"x", b" ", b"\0"]) * 10**7
            case 2:  # any bytes at all
                content = chance.randbytes(1000)
        lines = list(decode_lines(io.BytesIO(content), "text", "surrogateescape"))
        with contextlib.suppress(UserError):
            assert list(decode_lines(io.BytesIO(content), "text")) == lines
        options = {name: chance.choice(values) for name, values in _TEXT_OPTIONS.items()}
        found = LineTranslator(FakeRunner(), self._tokenizer, **options).translate(lines)
        assert len(found) == len(lines)
        assert not any("\n" in translation.text for translation in found)

    def _write(
        self, name: str, content: bytes, chance: random.Random, how: Damage | None = None
    ) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((how or damage)(content, chance))
        return path


def _run(loaded: Loaded) -> None:
    """Translate two sentences if the network takes that many tokens."""
    if min(loaded.config.max_source_positions, loaded.config.max_target_positions) < 8:
        return
    source = torch.from_numpy(pad([[0, 5, 6, 2], [0, 5, 2]]))
    with torch.inference_mode():
        if loaded.kind == "conv_crf_transformer":
            loaded.model(source)
        elif loaded.kind == "transformer_multibranch_v2":
            loaded.model.decode(source, loaded.model.encode(source))


def _tensors(path: Path, folder: Path) -> tuple[bytes, bytes]:
    """Return a .safetensors file and a model.yaml with the network of a checkpoint."""
    loaded = load_checkpoint(path)
    save_safetensors(folder / "model.safetensors", loaded.model.state_dict())
    options = {k: v for k, v in vars(loaded.config.to_args()).items() if k != "arch"}
    description = f"architecture: {loaded.kind}\ncheckpoint: model.safetensors\n"
    content = description + yaml.safe_dump({"options": options})
    return (folder / "model.safetensors").read_bytes(), content.encode()


def _program(path: Path, folder: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Return the metadata and the tensors of a checkpoint's native program."""
    place = folder / f"whole{SUFFIX}"
    native_program(load_checkpoint(path).model).save(place)
    with safetensors.safe_open(place, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return file.metadata(), tensors


def _saved_again(path: Path, place: Path) -> bytes:
    """Return a checkpoint in this project's form, with options that Python reads without fairseq."""
    loaded = load_checkpoint(path)
    save_checkpoint(place, loaded.model, loaded.config)
    return place.read_bytes()


def _whole(content: bytes, chance: random.Random) -> bytes:
    return content


def _each(*readers: Callable[[], object]) -> None:
    """Call every reader, even after a refusal; raise the first refusal."""
    refusals = []
    for read in readers:
        try:
            read()
        except UserError as refusal:
            refusals.append(refusal)
    if refusals:
        raise refusals[0]


EXPLOSIVE = ("(?:a+)+$", "(?:[a-z]|e)*!", "(?:a?){30}a{30}", "x*", "(a)", ".*.*.*!", "(?i)e", "[")
_TEXT_OPTIONS = {"too_long": ("refuse", "cut"), "unknown": ("refuse", "keep")}


def outcome(target: Callable[[random.Random], None], number: int) -> str:
    """Run one case: "result" or "refused".

    Raises:
        Exception: an error of the target other than a refusal, or an ``AssertionError``.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            target(random.Random(number))
        except UserError as error:
            line = " ".join(str(error).split())
            assert line, "a refusal without a word"
            assert len(line) <= LONGEST_LINE, f"a refusal of {len(line)} characters: {line[:200]}"
            return "refused"
        except SystemExit as left:
            if left.code != 2:
                raise AssertionError(f"left with status {left.code}") from left
            return "refused"
    return "result"


def build(folder: Path) -> Targets:
    """Return the targets on the fixtures' networks and the demo's text, with built files in ``folder``."""
    nat, greedy = folder / "nat", folder / "ar"
    with contextlib.redirect_stdout(io.StringIO()):
        for checkpoint, place in zip(CHECKPOINTS, (nat, greedy), strict=True):
            output = place / "model.onnx"
            export.main(["--checkpoint", str(checkpoint), "--output", str(output)])
        patched = nat / "model.fp16.onnx"
        onnx_surgeon.main(
            ["--input", str(nat / "model.onnx"), "--output", str(patched), "--precision", "fp16"]
        )
    return Targets(find_model("demo"), nat, greedy, folder / "damaged")


def tally(target: Callable[[random.Random], None], numbers: Iterable[int]) -> Counter:
    """Count the outcomes of the cases; print failures on stderr. A case that hangs ends the process."""
    counts = Counter()
    for number in numbers:
        faulthandler.dump_traceback_later(HANG, exit=True)
        try:
            counts[outcome(target, number)] += 1
        except Exception:
            counts["failed"] += 1
            print(f"{target.__name__} {number}: {traceback.format_exc()}", file=sys.stderr)
        finally:
            faulthandler.cancel_dump_traceback_later()
    return counts


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m trt_code.stress.fuzz", description=__doc__)
    add_count(parser, "--cases", 100, "cases of each target")
    add_count(parser, "--seed", 1, "the number of the first case", least=0)
    parser.add_argument("--only", help="targets, comma-separated")
    arguments = parser.parse_args(argv)
    check_asserts()
    faulthandler.enable()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        targets = build(Path(folder)).all()
        chosen = arguments.only.split(",") if arguments.only else list(targets)
        if unknown := set(chosen) - targets.keys():
            raise UserError(f"no target {min(unknown)!r}; choose from {', '.join(targets)}")
        print("| target | cases | results | refusals | failures | seconds |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for name in chosen:
            start = time.monotonic()
            numbers = range(arguments.seed, arguments.seed + arguments.cases)
            counts = tally(targets[name], track(numbers, name, unit="cases"))
            row = [counts["result"], counts["refused"], counts["failed"]]
            row = [name, arguments.cases, *row, f"{time.monotonic() - start:.0f}"]
            print("|", " | ".join(map(str, row)), "|", flush=True)
            failed += counts["failed"]
    return 1 if failed else 0


if __name__ == "__main__":
    run(main)
