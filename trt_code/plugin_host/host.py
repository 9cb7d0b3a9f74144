"""Drives the plugin host (``main.cpp``) from Python: writes its case files and reads its output.

A case is one ONNX node with tensors at one or more shapes. Tensors on PyTorch's ``meta`` device have
shapes and types but no data: such a case stops before ``enqueue``, like every case on a machine
without a GPU.
"""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from train_model.cli import UserError

Attribute = int | float | str | list[int] | list[float]
TYPES = {
    torch.float32: "FLOAT",
    torch.float16: "HALF",
    torch.bfloat16: "BF16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.int8: "INT8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Case:
    """One node, and the shapes at which the host runs it.

    Attributes:
        name: one word, which identifies the outcome.
        plugin: the node's op_type.
        attributes: the node's attributes: int, float, str, or a list of int or float.
        inputs: the input tensors of each run; types and ranks are the same in every run.
        outputs: the expected output tensors of each run, of which only shape and type count.
        accepted: every combination of types (inputs, then outputs) that the plugin accepts; it must
        refuse all others. Not checked if empty.
    """

    name: str
    plugin: str
    attributes: dict[str, Attribute]
    inputs: Sequence[Sequence[Tensor]]
    outputs: Sequence[Sequence[Tensor]]
    accepted: Sequence[Sequence[torch.dtype]] = ()
    version: str = "1"
    namespace: str = ""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a case.

    Attributes:
        result: "passed"; "refused" if the plugin refused with a reason; "fault" if it broke a rule of
        TensorRT's interface; "crash" if the host died.
        stage: the last stage that was entered, "fields" to "enqueue".
        enqueued: whether a run of it completed on a GPU.
        outputs: the output tensors of each run, on the CPU; empty unless it passed on a GPU.
    """

    case: str
    result: str
    stage: str
    message: str
    enqueued: bool = False
    timing_cache_id: str = ""
    outputs: list[list[Tensor]] = field(default_factory=list)


@dataclass(frozen=True)
class PluginHost:
    """A built host and the plugin library that it loads, both for the same TensorRT major version."""

    program: Path
    library: Path

    def fields(self) -> dict[str, dict[str, str]]:
        """Return each plugin's declared fields and their types: ``{"LiteTopK": {"k": "INT32"}, ...}``.

        Raises:
            UserError: the library cannot be loaded.
        """
        reply = subprocess.run(
            [self.program, self.library, "--fields"], capture_output=True, text=True
        )
        if reply.returncode != 0:
            raise UserError(f"{self.library}: {reply.stderr.strip()}")
        return {c["name"]: c["fields"] for c in json.loads(reply.stdout)["creators"]}

    def play(
        self,
        cases: Sequence[Case],
        *,
        device: bool = True,
        drop_undeclared: bool = False,
        at_once: int = 0,
    ) -> list[Outcome]:
        """Run the cases in order. After a crash, the remaining cases have no outcome.

        Args:
            device: enqueue the cases that have data, if there is a GPU.
            drop_undeclared: drop attributes that the creator does not declare, as the ONNX parser
                does, instead of calling it a fault.
            at_once: if not 0, run all cases at once, each in its own thread, and enqueue each case this
            number of times more.

        Raises:
            UserError: the library cannot be loaded, or a case cannot be run.
        """
        options = [] if device else ["--no-device"]
        options += ["--drop-undeclared"] if drop_undeclared else []
        options += ["--at-once", str(at_once)] if at_once else []
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cases"
            path.write_text("".join(_text(c, Path(folder) / str(i)) for i, c in enumerate(cases)))
            reply = subprocess.run(
                [self.program, self.library, "--cases", path, *options],
                capture_output=True,
                text=True,
                errors="replace",
            )
            if reply.returncode == 2:
                raise UserError(reply.stderr.strip())
            outcomes = [Outcome(**json.loads(line)) for line in reply.stdout.splitlines()]
            for i, (case, outcome) in enumerate(zip(cases, outcomes, strict=False)):
                if outcome.enqueued and outcome.result == "passed":
                    outcome.outputs.extend(_read(case, Path(folder) / f"{i}.out"))
        if reply.returncode not in (0, 1):
            message = f"exit status {reply.returncode}: {reply.stderr.strip()[-4000:]}"
            outcomes.append(Outcome(cases[len(outcomes)].name, "crash", "", message))
        return outcomes


def _text(case: Case, stem: Path) -> str:
    lines = [f"case {case.name}", f"node {case.plugin} {case.version} {case.namespace or '-'}"]
    lines += [f"attribute {name} {_attribute(value)}" for name, value in case.attributes.items()]
    lines += [f"input {TYPES[tensor.dtype]}" for tensor in case.inputs[0]]
    lines += [f"output {TYPES[tensor.dtype]}" for tensor in case.outputs[0]]
    lines += [f"types {' '.join(TYPES[dtype] for dtype in types)}" for types in case.accepted]
    for inputs, outputs in zip(case.inputs, case.outputs, strict=True):
        shapes = [[_shape(tensor) for tensor in tensors] for tensors in (inputs, outputs)]
        lines.append(f"run {' '.join(shapes[0])} -> {' '.join(shapes[1])}")
    tensors = [tensor for run in case.inputs for tensor in run]
    if not any(tensor.is_meta for tensor in tensors):
        data = stem.with_suffix(".in")
        data.write_bytes(b"".join(_bytes(tensor) for tensor in tensors))
        lines += [f"data {data}", f"result {stem.with_suffix('.out')}"]
    return "\n".join([*lines, "end", ""])


def _attribute(value: Attribute) -> str:
    if isinstance(value, str):
        return f"STRING {value}"
    kind = "INT" if isinstance(value[0] if isinstance(value, list) else value, int) else "FLOAT"
    if isinstance(value, list):
        return f"{kind}S {' '.join(map(repr, value))}"
    return f"{kind} {value!r}"


def _shape(tensor: Tensor) -> str:
    return ",".join(map(str, tensor.shape)) or "."


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _read(case: Case, path: Path) -> list[list[Tensor]]:
    data, start, runs = bytearray(path.read_bytes()), 0, []
    for outputs in case.outputs:
        tensors = []
        for expected in outputs:
            tensor = torch.empty(expected.shape, dtype=expected.dtype)
            if tensor.numel():
                tensor = torch.frombuffer(
                    data, dtype=expected.dtype, count=tensor.numel(), offset=start
                ).reshape(expected.shape)
            start += tensor.numel() * tensor.element_size()
            tensors.append(tensor)
        runs.append(tensors)
    return runs
