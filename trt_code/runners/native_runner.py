"""The network on the CPU in this project's own C++; see ``trt_code.native``."""

import functools
from typing import TYPE_CHECKING

import numpy as np

from train_model.models.canvas import canvas_width
from train_model.models.hypotheses import Found
from trt_code.devices import processors
from trt_code.runners.base import Output, Runner, Unavailable
from trt_code.runners.memory import ResidentMemory
from trt_code.runners.one_pass.several_lengths import translate_lengths
from trt_code.runners.pairing import check_file
from trt_code.runners.search import SearchRunner
from trt_code.runners.spec import Graphs, Request, RunnerSpec

if TYPE_CHECKING:
    from trt_code.native.program import LoadedProgram

_FILES = {
    "fp32": Graphs(("model.native.safetensors",), "make native"),
    "int8": Graphs(("model.qdq.native.safetensors",), "make native PRECISION=int8"),
}


def _load(request: Request) -> "LoadedProgram":
    from trt_code.native.library import NoLibrary, load
    from trt_code.native.program import LoadedProgram

    files = _FILES[request.precision]
    path = request.folder / files.files[0]
    try:
        program = LoadedProgram(load(), path)
    except NoLibrary as error:
        raise Unavailable(str(error)) from error
    try:
        check_file(path, program.properties, request, files.command)
        found, expected = program.properties.get("architecture"), request.model.architecture
        if found != expected:
            raise Unavailable(f"{path} is a {found}, not a {expected}; make it ({files.command})")
    except Unavailable:
        program.close()
        raise
    return program


def _threads(request: Request) -> int:
    return request.threads or processors()


def create_search(request: Request) -> SearchRunner:
    """Load an autoregressive network; see ``trt_code.runners.create``."""
    from trt_code.native.search import search

    memory = ResidentMemory()
    program = _load(request)
    return SearchRunner(
        request,
        functools.partial(search, program, threads=_threads(request)),
        program.max_source,
        memory.peak,
        program.close,
        takes_turns=False,
    )


class NativeRunner(Runner):
    """A one-pass network; its canvas ends with the longest translation. See ``trt_code.runners.create``.

    Raises:
        Unavailable: there is no C++ compiler, or the file is of other dictionaries.
        UserError: the file is damaged.
    """

    def __init__(self, request: Request) -> None:
        super().__init__(request.name, request.precision, request.device)
        self.shares_threads = True
        self._memory = ResidentMemory()
        self._program = _load(request)
        self._threads = _threads(request)
        self.max_source = self._program.max_source

    def run(self, src_tokens: np.ndarray) -> Output:
        return self._translate(src_tokens)[0]

    def _several(self, src_tokens: np.ndarray, count: int) -> Found:
        widest = canvas_width(src_tokens.shape[1], self._program.max_target)
        _, predicted = self._translate(src_tokens)
        return translate_lengths(
            predicted, count, widest, lambda lengths: self._translate(src_tokens, lengths)[0]
        )

    def _translate(
        self, src_tokens: np.ndarray, lengths: np.ndarray | None = None
    ) -> tuple[Output, np.ndarray]:
        from trt_code.native.translation import translate

        tokens, scores, predicted = translate(self._program, src_tokens, self._threads, lengths)
        return Output(tokens, scores), predicted

    def peak_memory(self) -> int:
        return self._memory.peak()

    def close(self) -> None:
        self._program.close()


def _graphs(precision: str, device: str) -> Graphs:
    return _FILES[precision]


_PRECISIONS = {"cpu": tuple(_FILES)}

RUNNERS = (
    RunnerSpec(
        "native",
        create_search,
        _PRECISIONS,
        families=("autoregressive",),
        reads="program",
        graphs=_graphs,
        n_best=True,
    ),
    RunnerSpec(
        "native",
        NativeRunner,
        _PRECISIONS,
        reads="program",
        graphs=_graphs,
        cuts_canvas=True,
        n_best=True,
    ),
)
