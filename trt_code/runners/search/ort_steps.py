"""Beam search with the steps in ONNX Runtime, over the files of ``onnx_export/export_ar.py``."""

import functools
from pathlib import Path
from typing import Any

from onnx_export.paths import half_path
from trt_code.runners.base import ResidentMemory, Unavailable
from trt_code.runners.search import SearchRunner
from trt_code.runners.search.numpy_search import search
from trt_code.runners.vocabulary import check_vocabularies

# The step's file, beside which the encoder's lies, and what makes both.
_FILES = {
    "fp32": ("model.onnx", "make onnx"),
    "int8": ("model.qdq.onnx", "make patch PRECISION=int8"),
}


def create(
    model_files: Any,
    precision: str,
    device: str,
    *,
    build_dir: str | Path = "build",
    threads: int = 0,
    beam: int | None = None,
    len_penalty: float | None = None,
    **_: Any,
) -> SearchRunner:
    """Open the step in ``build/<model>`` and the encoder beside it; see ``trt_code.runners.create``."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise Unavailable("onnxruntime is not installed (make env)") from error
    if precision not in _FILES or device != "cpu":
        raise Unavailable(
            "one step at a time runs in ONNX Runtime in fp32 and int8 on the CPU alone"
        )
    name, target = _FILES[precision]
    step = Path(build_dir) / model_files.name / name
    for path in (step, half_path(step, "encoder")):
        if not path.is_file():
            raise Unavailable(f"{path} has not been built ({target} MODEL={model_files.name})")
    from onnx_export.step_session import StepSession

    memory = ResidentMemory()
    halves = StepSession(step, threads)
    check_vocabularies(step, halves.metadata, model_files, target)
    return SearchRunner(
        "ort",
        precision,
        device,
        functools.partial(search, halves),
        halves.max_source,
        memory.peak,
        beam,
        len_penalty,
    )
