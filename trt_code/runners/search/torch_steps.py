"""Beam search with the steps in PyTorch."""

import functools
from pathlib import Path
from typing import Any

from trt_code.runners.memory import AllocatorMemory, ResidentMemory
from trt_code.runners.one_pass.torch_runner import checkpoint_files
from trt_code.runners.pytorch import PRECISIONS, dtype_of, matmul_precision
from trt_code.runners.search import SearchRunner
from trt_code.runners.spec import RunnerSpec


def create(
    model_files: Any,
    precision: str,
    device: str,
    *,
    name: str,
    threads: int = 0,
    build_dir: str | Path = "build",
    beam: int | None = None,
    len_penalty: float | None = None,
    **_: Any,
) -> SearchRunner:
    """Load the checkpoint and cast it; see ``trt_code.runners.one_pass.torch_runner.create``."""
    from train_model.models.beam_search import search
    from train_model.models.checkpoint import load_checkpoint
    from train_model.models.incremental import IncrementalDecoder
    from trt_code.runners.search.tensors import on_device

    model_files = checkpoint_files(model_files, precision, device, build_dir, threads)
    memory = AllocatorMemory() if device == "cuda" else ResidentMemory()
    model = load_checkpoint(model_files.checkpoint).model.to(device, dtype_of(precision))
    runner = SearchRunner(
        name,
        precision,
        device,
        on_device(functools.partial(search, IncrementalDecoder.of(model)), device),
        model.config.max_source_positions,
        memory.peak,
        beam,
        len_penalty,
        during=lambda: matmul_precision(precision, device),
    )
    runner.config = model.config
    return runner


RUNNERS = (
    RunnerSpec(
        "torch",
        create,
        {device: (*precisions, "int8") for device, precisions in PRECISIONS.items()},
        autoregressive=True,
    ),
)
