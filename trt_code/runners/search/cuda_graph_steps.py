"""Beam search with the steps in PyTorch, whole steps of the search in CUDA graphs (``graphed_search``)."""

from typing import TYPE_CHECKING, Any

from trt_code.runners.buckets import batch_bucket
from trt_code.runners.memory import AllocatorMemory
from trt_code.runners.pytorch import PRECISIONS, check_device, dtype_of
from trt_code.runners.search import SearchRunner
from trt_code.runners.spec import Request, RunnerSpec

if TYPE_CHECKING:
    from torch import Tensor


def create(request: Request) -> SearchRunner:
    """Load the checkpoint and cast it; see ``trt_code.runners.create``."""
    check_device(request.device)
    from train_model.models.checkpoint import load_checkpoint
    from train_model.models.incremental import DecoderStep, SourceEncoder
    from trt_code.runners.search.graphed_search import CudaCapture, GraphedSearch
    from trt_code.runners.search.tensors import runner_of

    memory = AllocatorMemory()
    dtype = dtype_of(request.precision)
    model = load_checkpoint(request.model.checkpoint).model.to(request.device, dtype)
    encoder, step = SourceEncoder(model).eval(), DecoderStep(model).eval()

    def greedy(tokens: "Tensor", parents: "Tensor", *rest: Any) -> "tuple[Tensor, list[Tensor]]":
        return step(tokens, None, *rest)  # every hypothesis continues itself

    search = GraphedSearch(
        lambda: encoder,
        lambda beam: greedy if beam == 1 else step,
        lambda rows, room: list(model.decoder.state_shapes(rows, room).values()),
        model.config.tgt_vocab,
        model.config.max_target_positions,
        dtype,
        CudaCapture(),
        0 if model.config.padding_leaks else model.config.max_source_positions,
        batch_bucket,
    )
    return runner_of(request, model, search, memory)


RUNNERS = (
    RunnerSpec(
        "cuda-graph",
        create,
        {"cuda": PRECISIONS["cuda"]},
        families=("autoregressive",),
        n_best=True,
    ),
)
