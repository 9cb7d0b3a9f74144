"""Beam search with the steps in PyTorch, whole steps of the search in CUDA graphs (``graphed_search``)."""

from typing import TYPE_CHECKING, Any

from trt_code.runners.memory import AllocatorMemory
from trt_code.runners.pytorch import PRECISIONS, check_device, dtype_of, matmul_precision
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
    from trt_code.runners.search.tensors import on_device

    memory = AllocatorMemory()
    dtype, device = dtype_of(request.precision), request.device
    model = load_checkpoint(request.model.checkpoint).model.to(device, dtype)
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
    )
    runner = SearchRunner(
        request,
        on_device(search, device),
        model.config.max_source_positions,
        memory.peak,
        during=lambda: matmul_precision(request.precision, device),
    )
    runner.config = model.config
    return runner


RUNNERS = (
    RunnerSpec(
        "cuda-graph",
        create,
        {"cuda": PRECISIONS["cuda"]},
        families=("autoregressive",),
        n_best=True,
    ),
)
