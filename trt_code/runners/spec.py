"""What a runner declares about itself, beside its code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trt_code.runners.base import Runner, Unavailable

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")


class Graphs(NamedTuple):
    """ONNX files of a model: their names in ``<build_dir>/<model>``, and how to make them.

    Attributes:
        files: names, e.g. ``("model.onnx",)``.
        command: without ``MODEL=``, e.g. ``make onnx``.
    """

    files: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class RunnerSpec:
    """A runner for one kind of network: what it can do, and how to make it.

    Importing the module that declares it must not import a framework; ``create`` does.

    Attributes:
        name: what ``--runner`` calls it. Runners for both kinds of network share their names.
        create: makes the runner; called as ``create(model_files, precision, device, name=...,
            **options)``, and takes from the options what it knows.
        precisions: the precisions that it offers on each device.
        autoregressive: whether its networks give one token at a time, or the whole translation.
        rival: whether it is there to be compared with. Rivals are not run unless asked for, and none
            promises to serve several threads.
        reads: what it loads: the checkpoint, ONNX files or TensorRT engines.
        graphs: the ONNX files for a precision and a device, if it reads ONNX files.
        cuts_canvas: whether a one-pass decoder computes no more positions than the longest
            translation of a batch needs.
        compiles: whether it compiles each new shape, for half a minute and more.
        int8_report: by device, the file in ``<build_dir>/<model>`` that shows which products run in
            INT8 (``trt_code.measure.layer_precision``).
        options: passed to ``create``.
    """

    name: str
    create: Callable[..., Runner]
    precisions: Mapping[str, tuple[str, ...]]
    autoregressive: bool = False
    rival: bool = False
    reads: Literal["checkpoint", "onnx", "engine"] = "checkpoint"
    graphs: Callable[[str, str], Graphs] | None = None
    cuts_canvas: bool = False
    compiles: bool = False
    int8_report: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self, precision: str, device: str, folder: Path, model: str = "") -> None:
        """Check that the runner offers this, and that its ONNX files are in ``folder``.

        Args:
            model: what ``MODEL=`` takes, for the message; the folder's name if not given.

        Raises:
            Unavailable: it does not, or a file is missing.
        """
        if device not in self.precisions:
            if self.reads == "engine":
                return  # ``create`` says which engine was built, although it cannot run here
            what = "a GPU only; use --device cuda" if device == "cpu" else "the CPU only"
            raise Unavailable(f"{self.name} runs on {what}")
        offered = self.precisions[device]
        if precision not in offered:
            if precision == "tf32" and precision in self.precisions.get("cuda", ()):
                raise Unavailable("TF32 needs a CUDA GPU")
            where = {"cpu": "the CPU", "cuda": "a GPU"}[device]
            *others, last = offered
            known = f"{', '.join(others)} and {last}" if others else last
            raise Unavailable(f"{self.name} runs in {known} on {where}, not in {precision}")
        if self.graphs is not None:
            graphs = self.graphs(precision, device)
            for file in (folder / name for name in graphs.files):
                if not file.is_file():
                    command = f"{graphs.command} MODEL={model or folder.name}"
                    raise Unavailable(f"{file} has not been built ({command})")
