"""Beam search with the steps in PyTorch."""

import functools
from typing import Any

import torch

from train_model.models.beam_search import search
from train_model.models.checkpoint import load_checkpoint
from train_model.models.incremental import IncrementalDecoder
from train_model.models.multibranch_config import MultibranchConfig
from trt_code.runners.base import Output, ResidentMemory, Unavailable
from trt_code.runners.search import SearchRunner
from trt_code.runners.torch_runner import DTYPES, matmul_precision


def create(
    model_files: Any,
    precision: str,
    device: str,
    *,
    threads: int = 0,
    beam: int | None = None,
    len_penalty: float | None = None,
    **_: Any,
) -> SearchRunner:
    """Load the checkpoint and cast it; see ``trt_code.runners.create``."""
    if precision not in DTYPES:
        raise Unavailable(f"PyTorch runs {', '.join(DTYPES)}; {precision} lives in the ONNX graph")
    if device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("PyTorch sees no CUDA GPU (make doctor)")
    if device == "cpu" and precision == "tf32":
        raise Unavailable("TF32 needs a CUDA GPU")
    if threads:
        torch.set_num_threads(threads)
    if device == "cuda":
        held_before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()

        def peak() -> int:
            return torch.cuda.max_memory_allocated() - held_before
    else:
        peak = ResidentMemory().peak
    model = load_checkpoint(model_files.checkpoint).model.to(device, DTYPES[precision])
    steps = functools.partial(search, IncrementalDecoder.of(model))
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
