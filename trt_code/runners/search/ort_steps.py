"""Beam search with the steps in ONNX Runtime, over the files of ``onnx_export/export_ar.py``."""

import functools
from pathlib import Path
from typing import Any

from trt_code.runners.base import Unavailable
from trt_code.runners.memory import ResidentMemory
from trt_code.runners.search import SearchRunner
from trt_code.runners.spec import Graphs, RunnerSpec

# The files of the step and of the encoder.
_GRAPHS = {
    "fp32": Graphs(("model.onnx", "model.encoder.onnx"), "make onnx"),
    "int8": Graphs(("model.qdq.onnx", "model.qdq.encoder.onnx"), "make patch PRECISION=int8"),
}


def create(
    model_files: Any,
    precision: str,
    device: str,
    *,
    name: str,
    build_dir: str | Path = "build",
    threads: int = 0,
    beam: int | None = None,
    len_penalty: float | None = None,
    **_: Any,
) -> SearchRunner:
    """Open the step in ``build/<model>`` and its encoder; see ``trt_code.runners.create``."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise Unavailable("onnxruntime is not installed (make env)") from error
    from onnx_export.step_session import StepSession
    from trt_code.runners.search.numpy_search import search
    from trt_code.runners.vocabulary import check_vocabularies

    graphs = _GRAPHS[precision]
    step = Path(build_dir) / model_files.name / graphs.files[0]
    memory = ResidentMemory()
    halves = StepSession(step, threads)
    check_vocabularies(step, halves.metadata, model_files, graphs.command)
    return SearchRunner(
        name,
        precision,
        device,
        functools.partial(search, halves),
        halves.max_source,
        memory.peak,
        beam,
        len_penalty,
    )


RUNNERS = (
    RunnerSpec(
        "ort",
        create,
        {"cpu": tuple(_GRAPHS)},
        autoregressive=True,
        reads="onnx",
        graphs=lambda precision, device: _GRAPHS[precision],
        int8_report={"cpu": "model.qdq.onnx"},
    ),
)
