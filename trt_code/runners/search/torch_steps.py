"""Beam search with the steps in PyTorch."""

import functools

from trt_code.runners.memory import AllocatorMemory, ResidentMemory
from trt_code.runners.one_pass.torch_runner import checkpoint_of
from trt_code.runners.pytorch import PRECISIONS, dtype_of
from trt_code.runners.search import SearchRunner
from trt_code.runners.spec import Request, RunnerSpec


def create(request: Request) -> SearchRunner:
    """Load the checkpoint and cast it; see ``trt_code.runners.one_pass.torch_runner.create``."""
    from train_model.models.beam_search import search
    from train_model.models.checkpoint import load_checkpoint
    from train_model.models.incremental import IncrementalDecoder
    from trt_code.runners.search.tensors import runner_of

    checkpoint, device = checkpoint_of(request), request.device
    memory = AllocatorMemory() if device == "cuda" else ResidentMemory()
    model = load_checkpoint(checkpoint).model.to(device, dtype_of(request.precision))
    return runner_of(
        request, model, functools.partial(search, IncrementalDecoder.of(model)), memory
    )


RUNNERS = (
    RunnerSpec(
        "torch",
        create,
        {device: (*precisions, "int8") for device, precisions in PRECISIONS.items()},
        families=("autoregressive",),
        n_best=True,
    ),
)
