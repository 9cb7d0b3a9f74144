"""Beam search with the steps in PyTorch."""

import functools
from pathlib import Path
from typing import Any

import torch

from train_model.models.beam_search import search
from train_model.models.checkpoint import load_checkpoint
from train_model.models.incremental import IncrementalDecoder
from train_model.models.multibranch_config import MultibranchConfig
from trt_code.runners.base import Output, ResidentMemory
from trt_code.runners.one_pass.torch_runner import DTYPES, files_of, matmul_precision
from trt_code.runners.search import SearchRunner
from trt_code.runners.search.tensors import on_device


def create(
    model_files: Any,
    precision: str,
    device: str,
    *,
    threads: int = 0,
    build_dir: str | Path = "build",
    beam: int | None = None,
    len_penalty: float | None = None,
    **_: Any,
) -> SearchRunner:
    """Load the checkpoint and cast it; see ``trt_code.runners.one_pass.torch_runner.create``."""
    model_files = files_of(model_files, precision, device, build_dir)
    if threads:
        torch.set_num_threads(threads)
    if device == "cuda":
        held_before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()

        def peak() -> int:
            return torch.cuda.max_memory_allocated() - held_before
    else:
        peak = ResidentMemory().peak
    dtype = DTYPES.get(precision, torch.float32)
    model = load_checkpoint(model_files.checkpoint).model.to(device, dtype)
    steps = on_device(functools.partial(search, IncrementalDecoder.of(model)), device)
    limit = model.config.max_source_positions
    runner = TorchSearchRunner("torch", precision, device, steps, limit, peak, beam, len_penalty)
    runner.config = model.config
    return runner


class TorchSearchRunner(SearchRunner):
    """TF32 is a setting of the process, so it is on during a call alone.

    Attributes:
        config: the network's, as the runner of every PyTorch network has it.
    """

    config: MultibranchConfig

    def run(self, src_tokens) -> Output:
        with matmul_precision(self.precision):
            return super().run(src_tokens)
