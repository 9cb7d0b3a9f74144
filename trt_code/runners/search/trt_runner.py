"""Beam search with the steps in TensorRT (``trt_steps``)."""

from trt_code.engine.plan import RuntimeOptions
from trt_code.runners.base import Unavailable
from trt_code.runners.memory import AllocatorMemory
from trt_code.runners.one_pass.trt_runner import check_plan, find_plan, layer_report, plans_on
from trt_code.runners.search import BEAM, SearchRunner
from trt_code.runners.spec import GRAPH_PRECISIONS, Request, RunnerSpec


def create(request: Request, plain: bool) -> SearchRunner:
    """Make the runner of ``<build_dir>/<model>/model.<precision>.plan`` and its encoder's plan.

    Args:
        plain: take the plans without plugins (``find_plan``).

    Raises:
        Unavailable: TensorRT or a GPU is missing, a plan is missing, stale, foreign or damaged, or the engine
            was built for fewer hypotheses than ``request.beam``.
    """
    import torch

    from trt_code.runners.search.graphed_search import CudaCapture, without_capture
    from trt_code.runners.search.tensors import on_device
    from trt_code.runners.search.trt_steps import EngineHalves

    step = find_plan(request.folder / f"model.{request.precision}.plan", plain)
    with plans_on(request.device, step, instead="ort"):
        if not torch.cuda.is_available():
            raise Unavailable("PyTorch, which does the search, sees no CUDA GPU (make doctor)")
        options = RuntimeOptions(request.kernels, request.cuda_graph)
        halves = EngineHalves(step, torch.device(request.device), options)
        halves.check_beam(BEAM if request.beam is None else request.beam)
    check_plan(step, request, f"make engine-{request.precision}")
    memory = AllocatorMemory()  # PyTorch's; the engines' weights are TensorRT's
    capture = CudaCapture() if options.cuda_graph == "runner" else without_capture
    search = on_device(halves.search(capture), request.device)
    runner = SearchRunner(request, search, halves.max_source, memory.peak, halves.close)
    runner.max_batch, runner.int8_report = halves.max_batch, layer_report(step)
    return runner


RUNNERS = tuple(
    RunnerSpec(
        name,
        create,
        {"cuda": GRAPH_PRECISIONS},
        families=("autoregressive",),
        n_best=True,
        reads="engine",
        options={"plain": name.endswith("-plain")},
    )
    for name in ("trt", "trt-plain")
)
