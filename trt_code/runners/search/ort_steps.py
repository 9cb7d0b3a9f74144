"""Beam search with the steps in ONNX Runtime, over the files of ``onnx_export/export_ar.py``."""

import functools

from trt_code.runners.base import Unavailable
from trt_code.runners.memory import ResidentMemory
from trt_code.runners.search import SearchRunner
from trt_code.runners.spec import Graphs, Request, RunnerSpec

# The files of the step and of the encoder.
_GRAPHS = {
    "fp32": Graphs(("model.onnx", "model.encoder.onnx"), "make onnx"),
    "int8": Graphs(("model.qdq.onnx", "model.qdq.encoder.onnx"), "make patch PRECISION=int8"),
}


def create(request: Request) -> SearchRunner:
    """Open the step in ``build/<model>`` and its encoder; see ``trt_code.runners.create``."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise Unavailable("onnxruntime is not installed (make env)") from error
    from onnx_export.step_session import StepSession
    from train_model.models.numpy_search import search
    from trt_code.runners.pairing import check_file

    graphs = _GRAPHS[request.precision]
    step = request.folder / graphs.files[0]
    memory = ResidentMemory()
    halves = StepSession(step, request.threads)
    check_file(step, halves.metadata, request, graphs.command)
    search_steps = functools.partial(search, halves)
    runner = SearchRunner(request, search_steps, halves.max_source, memory.peak)
    runner.int8_report = step
    return runner


RUNNERS = (
    RunnerSpec(
        "ort",
        create,
        {"cpu": tuple(_GRAPHS)},
        families=("autoregressive",),
        n_best=True,
        reads="onnx",
        graphs=lambda precision, device: _GRAPHS[precision],
    ),
)
