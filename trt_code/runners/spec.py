"""The declaration of a runner: its properties, and how to make it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from train_model.cli import MAX_NUMBER, MAX_THREADS, check_choice, check_number
from train_model.model_folder import quantized_checkpoint
from train_model.models.architectures import Family
from train_model.models.hypotheses import MAX_BEAM
from train_model.models.refinement import MAX_ITERATIONS
from trt_code.engine.plan import CUDA_GRAPHS, KERNELS
from trt_code.runners.base import Runner, Unavailable

GRAPH_PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")
"""The precisions of ONNX graphs and engines."""

PRECISIONS = (*GRAPH_PRECISIONS, "fp8")
"""The precisions of all runners."""


class Graphs(NamedTuple):
    """Built files of a model: their names in ``<build_dir>/<model>``, and how to make them.

    Attributes:
        files: names, e.g. ``("model.onnx",)``.
        command: without ``MODEL=``, e.g. ``make onnx``.
    """

    files: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class Request:
    """The model, device and options for which a runner is made.

    Attributes:
        model: a ``train_model.model_folder.ModelFolder``.
        precision: one of ``PRECISIONS``.
        device: "cpu" or "cuda".
        name: the runner's name.
        build_dir: folder of the built files.
        threads: CPU threads; 0 for all cores.
        beam, len_penalty: options of a search; None for ``trt_code.runners.search``'s defaults.
        max_iter: passes of an iterative network's decoder after the first one; None for the network's own.
        kernels, cuda_graph: see ``trt_code.engine.plan.RuntimeOptions``.
    """

    model: Any
    precision: str
    device: str
    name: str
    build_dir: str | Path = "build"
    threads: int = 0
    beam: int | None = None
    len_penalty: float | None = None
    max_iter: int | None = None
    kernels: str = KERNELS[0]
    cuda_graph: str = CUDA_GRAPHS[0]

    def __post_init__(self) -> None:
        """Raise ``UserError`` for a number beyond what a machine can do, or an unknown choice."""
        check_number("threads", self.threads, 0, MAX_THREADS)
        for name, least, most in (
            ("beam", 1, MAX_BEAM),
            ("len_penalty", -MAX_NUMBER, MAX_NUMBER),
            ("max_iter", 0, MAX_ITERATIONS),
        ):
            if (value := getattr(self, name)) is not None:
                check_number(name, value, least, most)
        check_choice("kernels", self.kernels, KERNELS)
        check_choice("cuda_graph", self.cuda_graph, CUDA_GRAPHS)

    @property
    def folder(self) -> Path:
        """The folder of the model's built files."""
        return Path(self.build_dir) / self.model.name

    @property
    def origins(self) -> list[Path | None]:
        """The checkpoints that a file of this precision is made from, the nearest first.

        The first one of INT8 and FP8 is the quantised checkpoint, or None if there is none.
        """
        if self.precision not in ("int8", "fp8"):
            return [self.model.checkpoint]
        return [quantized_checkpoint(self.model.name, self.build_dir), self.model.checkpoint]


@dataclass(frozen=True)
class RunnerSpec:
    """A runner for one or more families of networks: its abilities, and the function that makes it.

    Importing the module that declares it must not import a framework; ``create`` does.

    Attributes:
        name: its name for ``--runner``. Runners for different families share their names.
        create: makes the runner; called as ``create(request, **options)``.
        precisions: the precisions that it offers on each device.
        families: the families of the networks that it runs (``train_model.models.architectures``).
        rival: whether it serves only for comparison. Rivals run only on request, and do not promise to
        serve several threads.
        reads: the kind of its files: the checkpoint, ONNX files, a native program or TensorRT engines.
        graphs: the files for a precision and a device, if it reads ONNX files or a program.
        cuts_canvas: whether a one-pass decoder computes no more positions than the longest
            translation of a batch needs.
        n_best: whether it gives several translations per sentence.
        compiles: whether it compiles each new shape, for half a minute and more.
        options: how this runner differs from others that the same ``create`` makes.
    """

    name: str
    create: Callable[..., Runner]
    precisions: Mapping[str, tuple[str, ...]]
    families: tuple[Family, ...] = ("one-pass",)
    rival: bool = False
    reads: Literal["checkpoint", "onnx", "program", "engine"] = "checkpoint"
    graphs: Callable[[str, str], Graphs] | None = None
    cuts_canvas: bool = False
    n_best: bool = False
    compiles: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self, request: Request) -> None:
        """Check that the runner supports the request, and that its files exist.

        Raises:
            Unavailable: it does not support it, or a file is missing.
        """
        precision, device = request.precision, request.device
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
            for file in (request.folder / name for name in graphs.files):
                if not file.is_file():
                    command = f"{graphs.command} MODEL={request.model.argument}"
                    raise Unavailable(f"{file} has not been built ({command})")
