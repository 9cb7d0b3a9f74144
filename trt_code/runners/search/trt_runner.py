"""Beam search with the steps in TensorRT (``trt_steps``)."""

from trt_code.runners.base import Unavailable
from trt_code.runners.memory import AllocatorMemory
from trt_code.runners.one_pass.trt_runner import check_plan, find_plan, plans_on
from trt_code.runners.search import BEAM, SearchRunner
from trt_code.runners.spec import PRECISIONS, Request, RunnerSpec


def create(request: Request) -> SearchRunner:
    """Make the runner of ``<build_dir>/<model>/model.<precision>.plan`` and its encoder's plan.

    Raises:
        Unavailable: TensorRT or a GPU is missing, a plan is missing, stale, foreign or damaged, or the engine
            was built for fewer hypotheses than ``request.beam``.
    """
    import torch

    from trt_code.runners.search.graphed_search import CudaCapture
    from trt_code.runners.search.tensors import on_device
    from trt_code.runners.search.trt_steps import EngineHalves

    step = find_plan(request.folder / f"model.{request.precision}.plan")
    with plans_on(request.device, step, instead="ort"):
        if not torch.cuda.is_available():
            raise Unavailable("PyTorch, which does the search, sees no CUDA GPU (make doctor)")
        halves = EngineHalves(step, torch.device(request.device))
        halves.check_beam(BEAM if request.beam is None else request.beam)
    check_plan(step, request.model, f"make engine-{request.precision}")
    memory = AllocatorMemory()  # PyTorch's; the engines' weights are TensorRT's
    search = on_device(halves.search(CudaCapture()), request.device)
    runner = SearchRunner(request, search, halves.max_source, memory.peak, halves.close)
    runner.max_batch = halves.max_batch
    return runner


RUNNERS = (
    RunnerSpec(
        "trt",
        create,
        {"cuda": PRECISIONS},
        families=("autoregressive",),
        n_best=True,
        reads="engine",
        int8_report={"cuda": "model.int8.layers.json"},
    ),
)
