"""Damages what the project reads and checks what comes of it: a result, or one clear line.

    python -m trt_code.tests.fuzz --cases 500 --seed 1

runs every target that often and prints a table; ``test_fuzz.py`` runs a few of each. A case is its
target and a number, so a failure is repeated with ``--only TARGET --seed NUMBER --cases 1``.
"""

import argparse
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import onnx

from onnx_export import export
from onnx_export.onnx_file import load_onnx
from train_model import recipe
from train_model.cli import UserError, run
from train_model.data.dictionary import Dictionary
from train_model.data.tokenizer import Tokenizer
from train_model.models.zoo import ModelFiles, model_files
from trt_code import onnx_surgeon
from trt_code.batching import pad
from trt_code.engine.graph_files import read_graph_files
from trt_code.engine.sidecar import read_sidecar, stale_reason
from trt_code.runners import create
from trt_code.tests.fake_runner import FakeRunner
from trt_code.translate import read_lines
from trt_code.translator import Translator

CHECKPOINT = Path(export.__file__).parents[1] / "train_model/tests/fixtures/checkpoint_nat.pt"
Damage = Callable[[bytes, random.Random], bytes]
LONGEST_LINE = 1000  # of a refusal; it may quote ONNX Runtime's own words, not a whole file
HOSTILE = [
    *(
        b"\0",
        b"\xff\xfe",
        b"\x7f",
        b"\x1b[2J",
        b"\r",
        b"\n\n",
        b"\t",
        b"  ",
        b"@@ ",
        b"-1",
        b"1e999",
    ),
    *(b"99999999999999999999999", b"nan", b"null", b"{}", b"[]", b"[[[[", b'"', b": ", b"&a *a"),
    *(b"!!python/object/apply:os.abort []", b"<s> 1", b"../../../etc/passwd", b"\xed\xa0\x80"),
    *(
        text.encode()
        for text in (
            "\u202eabc\u202c",
            "\u200f",
            "👩‍👩‍👧",
            "e\u0301",
            "\u2028",
            "שלום",
            "\ufeff",
            "٣",
        )
    ),
]
SIDECAR = {
    "tensorrt": "10.16.0",
    "gpu": {"name": "NVIDIA H100", "compute_capability": "9.0"},
    "graph": {"path": "model.onnx", "sha256": "0" * 64},
    "plugins": [{"path": "liblite.so", "sha256": "0" * 64}],
    "profiles": [{"min": [1, 1], "opt": [1, 8], "max": [4, 16]}],
    "tf32": True,
    "version_compatible": False,
    "hardware_compatible": "none",
    "plan_sha256": "0" * 64,
    "build_seconds": 1.0,
    "command": "make engine-fp16",
    "format": 1,
}


def damage(content: bytes, chance: random.Random) -> bytes:
    """``content`` with one to four of: a cut, changed bytes, a piece lost, doubled or put in."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        start = chance.randint(0, len(data))
        end = min(len(data), start + chance.choice([1, 2, 8, 64, 4096]))
        match chance.randrange(6):
            case 0:
                del data[start:]
            case 1:
                data[start:end] = chance.randbytes(end - start)
            case 2:
                del data[start:end]
            case 3:
                data[start:start] = data[start:end]
            case _:
                data[start:start] = chance.choice(HOSTILE) * chance.choice([1, 1, 1, 50])
    return bytes(data)


def damage_graph(content: bytes, chance: random.Random) -> bytes:
    """An ONNX file that is still one, with one or two of its parts changed; or bytes damaged."""
    if chance.random() < 0.3:
        return damage(content, chance)
    model = onnx.ModelProto.FromString(content)
    graph = model.graph
    for _ in range(chance.choice([1, 1, 2])):
        node, weight = chance.choice(graph.node), chance.choice(graph.initializer)
        match chance.randrange(10):
            case 0:
                graph.node.remove(node)
            case 1:
                node.op_type = chance.choice(["Add", "MatMul", "NoSuchOperator", "", "Softmax"])
            case 2 if node.input:
                node.input[0] = chance.choice(["", "nowhere", chance.choice(graph.node).output[0]])
            case 3 if node.attribute:
                attribute = chance.choice(node.attribute)
                attribute.i = chance.choice([-1, 0, 2**62])
            case 4:
                weight.dims.append(chance.choice([0, 2, 2**40]))
            case 5:
                weight.data_type = chance.randrange(25)
            case 6:
                weight.raw_data = weight.raw_data[: chance.randint(0, len(weight.raw_data))]
            case 7:
                weight.raw_data = chance.randbytes(len(weight.raw_data))
            case 8:
                graph.initializer.remove(weight)
            case _:
                model.opset_import[0].version = chance.choice([0, 7, 13, 99])
    return model.SerializeToString()


class Targets:
    """What is damaged, each with the code that reads it. ``folder`` is for the damaged files."""

    def __init__(self, files: ModelFiles, graph: Path, folder: Path) -> None:
        self._files, self._graph, self._folder = files, graph.read_bytes(), folder
        self._tokenizer = Tokenizer.from_files(files)
        self._sentences = files.test_src.read_text(encoding="utf-8").split("\n")[:5]

    def all(self) -> dict[str, Callable[[random.Random], None]]:
        """Every target by its name; each raises ``UserError`` where it refuses."""
        return {
            "onnx": self.onnx,
            "surgeon": self.surgeon,
            "recipe": self.recipe,
            "dictionary": self.dictionary,
            "bpe": self.bpe,
            "sidecar": self.sidecar,
            "text": self.text,
        }

    def onnx(self, chance: random.Random) -> None:
        """An ONNX file, read and run by ONNX Runtime."""
        path = self._write(f"{self._files.name}/model.onnx", self._graph, chance, damage_graph)
        load_onnx(path)
        read_graph_files(path)
        with create("ort", self._files, "fp32", "cpu", threads=1, build_dir=self._folder) as runner:
            runner.run(pad([[0, 5, 6, 2], [0, 5, 2]]))

    def surgeon(self, chance: random.Random) -> None:
        """An ONNX file, patched; what stands in the output's place stays where this fails."""
        path = self._write("model.onnx", self._graph, chance, damage_graph)
        output = self._folder / "patched.onnx"
        output.write_bytes(b"old")
        try:
            onnx_surgeon.main(
                ["--input", str(path), "--output", str(output), "--precision", "fp16"]
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
        """BPE codes, with which sentences are split."""
        path = self._write("bpe.codes", self._files.bpe_codes.read_bytes(), chance)
        tokenizer = Tokenizer(path, self._tokenizer.src_dict, self._tokenizer.tgt_dict)
        for sentence in filter(None, self._sentences):
            tokenizer.decode(tokenizer.encode(sentence))

    def sidecar(self, chance: random.Random) -> None:
        """The description beside a TensorRT plan."""
        plan = self._folder / "model.plan"
        plan.write_bytes(b"plan")
        self._write("model.plan.json", json.dumps(SIDECAR, indent=2).encode(), chance)
        stale_reason(read_sidecar(plan), plan)

    def text(self, chance: random.Random) -> None:
        """Text to translate: as many lines come out as went in."""
        content = damage("\n".join(self._sentences).encode(), chance)
        if chance.random() < 0.02:
            content *= 2000
        lines = list(read_lines(io.BytesIO(content)))
        options = {name: chance.choice(values) for name, values in _TEXT_OPTIONS.items()}
        found = Translator(FakeRunner(), self._tokenizer, **options).translate(lines)
        assert len(found) == len(lines)
        assert not any("\n" in translation.text for translation in found)

    def _write(
        self, name: str, content: bytes, chance: random.Random, how: Damage = damage
    ) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(how(content, chance))
        return path


_TEXT_OPTIONS = {"too_long": ("refuse", "cut"), "unknown": ("refuse", "keep")}


def outcome(target: Callable[[random.Random], None], number: int) -> str:
    """Run one case: "result" or "refused".

    Raises:
        Exception: whatever the target raised that is no refusal, or an ``AssertionError``.
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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trt_code.tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100, help="of each target")
    parser.add_argument("--seed", type=int, default=1, help="the number of the first case")
    parser.add_argument("--only", help="one target")
    arguments = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    failed = 0
    try:
        graph = folder / "graph" / "model.onnx"
        with contextlib.redirect_stdout(io.StringIO()):
            export.main(["--checkpoint", str(CHECKPOINT), "--output", str(graph)])
        targets = Targets(model_files("demo"), graph, folder / "damaged").all()
        if arguments.only and arguments.only not in targets:
            raise UserError(f"no target {arguments.only!r}; choose from {', '.join(targets)}")
        print("| target | cases | results | refusals | failures | seconds |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for name in [arguments.only] if arguments.only else targets:
            start, counts = time.monotonic(), Counter()
            for number in range(arguments.seed, arguments.seed + arguments.cases):
                try:
                    counts[outcome(targets[name], number)] += 1
                except Exception:
                    counts["failed"] += 1
                    print(f"{name} {number}: {traceback.format_exc()}", file=sys.stderr)
            row = [counts["result"], counts["refused"], counts["failed"]]
            seconds = f"{time.monotonic() - start:.0f}"
            print(
                "|",
                " | ".join([name, str(arguments.cases), *map(str, row), seconds]),
                "|",
                flush=True,
            )
            failed += counts["failed"]
    finally:
        shutil.rmtree(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    run(main)
