"""Beam search with the steps in TensorRT (``trt_steps``)."""

from pathlib import Path
from typing import Any

from trt_code.runners.base import Unavailable
from trt_code.runners.memory import AllocatorMemory
from trt_code.runners.one_pass.trt_runner import check_plan, find_plan, plans_on
from trt_code.runners.search import BEAM, SearchRunner
from trt_code.runners.spec import PRECISIONS, RunnerSpec


def create(
    model_files: Any,
    precision: str,
    device: str,
    *,
    name: str,
    build_dir: str | Path = "build",
    beam: int | None = None,
    len_penalty: float | None = None,
    **_: Any,
) -> SearchRunner:
    """Make the runner of ``<build_dir>/<model>/model.<precision>.plan`` and the encoder's beside it.

    Raises:
        Unavailable: no TensorRT or GPU here, a plan is missing, stale, foreign or damaged, or the engine
            was built for fewer hypotheses than ``beam``.
    """
    import torch

    from trt_code.runners.search.graphed_search import CudaCapture
    from trt_code.runners.search.tensors import on_device
    from trt_code.runners.search.trt_steps import EngineHalves

    step = find_plan(Path(build_dir) / model_files.name / f"model.{precision}.plan")
    with plans_on(device, step, instead="ort"):
        if not torch.cuda.is_available():
            raise Unavailable("PyTorch, which does the search, sees no CUDA GPU (make doctor)")
        halves = EngineHalves(step, torch.device(device))
        halves.check_beam(BEAM if beam is None else beam)
    check_plan(step, model_files, f"make engine-{precision}")
    memory = AllocatorMemory()  # PyTorch's; the engines' weights are TensorRT's
    runner = SearchRunner(
        name,
        precision,
        device,
        on_device(halves.search(CudaCapture()), device),
        halves.max_source,
        memory.peak,
        beam,
        len_penalty,
        halves.close,
    )
    runner.max_batch = halves.max_batch
    return runner


RUNNERS = (
    RunnerSpec(
        "trt",
        create,
        {"cuda": PRECISIONS},
        autoregressive=True,
        reads="engine",
        int8_report={"cuda": "model.int8.layers.json"},
    ),
)
