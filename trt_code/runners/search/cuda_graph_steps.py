"""Beam search with the steps in PyTorch, whole steps of the search in CUDA graphs (``graphed_search``)."""

from typing import Any

import torch
from torch import Tensor

from train_model.models.checkpoint import load_checkpoint
from train_model.models.incremental import DecoderStep, SourceEncoder
from trt_code.runners.base import Unavailable
from trt_code.runners.one_pass.torch_runner import DTYPES
from trt_code.runners.search import SearchRunner
from trt_code.runners.search.graphed_search import CudaCapture, GraphedSearch
from trt_code.runners.search.tensors import on_device
from trt_code.runners.search.torch_steps import TorchSearchRunner


def create(
    model_files: Any,
    precision: str,
    device: str,
    *,
    beam: int | None = None,
    len_penalty: float | None = None,
    **_: Any,
) -> SearchRunner:
    """Load the checkpoint and cast it; see ``trt_code.runners.create``."""
    if device != "cuda" or not torch.cuda.is_available():
        raise Unavailable("CUDA graphs need a CUDA GPU (make doctor)")
    if precision not in DTYPES:
        raise Unavailable(f"PyTorch runs {', '.join(DTYPES)}; {precision} lives in the ONNX graph")
    held_before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    model = load_checkpoint(model_files.checkpoint).model.to(device, DTYPES[precision])
    encoder, step = SourceEncoder(model).eval(), DecoderStep(model).eval()

    def greedy(tokens: Tensor, parents: Tensor, *rest: Any) -> tuple[Tensor, list[Tensor]]:
        return step(tokens, None, *rest)  # every hypothesis continues itself

    search = GraphedSearch(
        lambda: encoder,
        lambda beam: greedy if beam == 1 else step,
        lambda rows, room: list(model.decoder.state_shapes(rows, room).values()),
        model.config.tgt_vocab,
        model.config.max_target_positions,
        DTYPES[precision],
        CudaCapture(),
        # padding changes nothing where the network masks it; other checkpoints get exact lengths
        model.config.max_source_positions if model.config.padding_policy == "masked" else 0,
    )
    return TorchSearchRunner(
        "cuda-graph",
        precision,
        device,
        on_device(search, device),
        model.config.max_source_positions,
        lambda: torch.cuda.max_memory_allocated() - held_before,
        beam,
        len_penalty,
    )
