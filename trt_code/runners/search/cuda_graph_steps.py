"""Beam search with whole steps in CUDA graphs (``graphed_search``): of our kernels where they fit, else of
PyTorch's."""

from typing import TYPE_CHECKING, Any

from trt_code.runners.buckets import batch_bucket
from trt_code.runners.memory import AllocatorMemory
from trt_code.runners.pytorch import PRECISIONS, check_device, dtype_of
from trt_code.runners.search import SearchRunner
from trt_code.runners.spec import Request, RunnerSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from train_model.models.autoregressive import AutoregressiveTranslator
    from train_model.models.beam_search import Search
    from train_model.models.hypotheses import Found, SearchOptions
    from trt_code.runners.search.tensors import TensorSearch


def create(request: Request) -> SearchRunner:
    """Load the checkpoint and cast it; see ``trt_code.runners.create``."""
    check_device(request.device)
    from train_model.models.checkpoint import load_checkpoint
    from trt_code.runners.search.tensors import runner_of

    memory = AllocatorMemory()
    model = load_checkpoint(request.model.checkpoint).model
    model = model.to(request.device, dtype_of(request.precision)).eval()
    return runner_of(request, model, graphed_search(model, request.precision), memory)


def graphed_search(model: "AutoregressiveTranslator", precision: str) -> "TensorSearch":
    """The search of ``model``, which is on the GPU and in the dtype of ``precision``."""
    from train_model.models.beam_search import Search
    from train_model.models.incremental import DecoderStep, SourceEncoder
    from train_model.ops import load_cuda_library
    from trt_code.cuda_graph.search_steps import FusedSearch, FusedSteps, search_fits, why_not
    from trt_code.runners.search.graphed_search import CudaCapture, GraphedSearch

    config, weight, capture = model.config, model.encoder.embed_tokens.weight, CudaCapture()

    def graphed(
        encode: "Callable", step: "Callable", new_state: "Callable", search: "type[Search]"
    ) -> GraphedSearch:
        return GraphedSearch(
            lambda: encode,
            step,
            new_state,
            config.tgt_vocab,
            config.max_target_positions,
            capture,
            0 if config.padding_leaks else config.max_source_positions,
            batch_bucket,
            search,
        )

    step = DecoderStep(model)

    def greedy(tokens: "Tensor", parents: "Tensor", *rest: Any) -> "tuple[Tensor, list[Tensor]]":
        return step(tokens, None, *rest)  # every hypothesis continues itself

    def new_state(rows: int, room: int) -> "list[Tensor]":
        shapes = model.decoder.state_shapes(rows, room).values()
        return [weight.new_zeros(shape) for shape in shapes]

    any_beam = graphed(
        SourceEncoder(model), lambda beam: greedy if beam == 1 else step, new_state, Search
    )
    if not load_cuda_library() or why_not(model, weight.dtype) is not None:
        return any_beam
    steps = FusedSteps(model, weight.dtype, tf32=precision == "tf32")
    fused = graphed(steps.encode, lambda beam: steps, steps.new_state, FusedSearch)

    def choose(src_tokens: "Tensor", options: "SearchOptions") -> "Found":
        fits = search_fits(options.beam, config.tgt_vocab, weight.dtype)
        return (fused if fits else any_beam)(src_tokens, options)

    return choose


RUNNERS = (
    RunnerSpec(
        "cuda-graph",
        create,
        {"cuda": PRECISIONS["cuda"]},
        families=("autoregressive",),
        n_best=True,
    ),
)
