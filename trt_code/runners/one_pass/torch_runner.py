"""The network in PyTorch as it is: the reference in FP32, and the baseline in other precisions."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train_model.models.checkpoint import load_checkpoint
from train_model.models.zoo import quantized_checkpoint
from trt_code.runners.base import WARM_UP, Output, ResidentMemory, Runner, Unavailable

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


def create(
    model_files: Any,
    precision: str,
    device: str,
    *,
    build_dir: str | Path = "build",
    threads: int = 0,
    **_: Any,
) -> "TorchRunner":
    """Load the checkpoint and cast it; see ``trt_code.runners.create``.

    INT8 is the checkpoint that ``make qat`` or else ``make ptq`` made.
    """
    model_files = files_of(model_files, precision, device, build_dir)
    if threads:
        torch.set_num_threads(threads)
    return TorchRunner(model_files, precision, device)


def files_of(model_files: Any, precision: str, device: str, build_dir: str | Path) -> Any:
    """The model's files, for INT8 with its quantised checkpoint.

    Raises:
        Unavailable: PyTorch cannot run this precision here, or the model is not quantised.
    """
    # PyTorch computes in FP32 with the rounding of INT8 around the products
    check_available("fp32" if precision == "int8" else precision, device)
    if precision != "int8":
        return model_files
    checkpoint = quantized_checkpoint(model_files.name, build_dir)
    if checkpoint is None:
        raise Unavailable(f"{model_files.name} is not quantised (make ptq or make qat)")
    return dataclasses.replace(model_files, checkpoint=checkpoint)


def check_available(precision: str, device: str) -> None:
    """Raise ``Unavailable`` where PyTorch cannot run this precision on this device."""
    if precision not in DTYPES:
        raise Unavailable(f"PyTorch runs {', '.join(DTYPES)}; {precision} lives in the ONNX graph")
    if device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("PyTorch sees no CUDA GPU (make doctor)")
    if device == "cpu" and precision == "tf32":
        raise Unavailable("TF32 needs a CUDA GPU")


class TorchRunner(Runner):
    """Weights and activations are cast outright, without autocast, as an engine would have them."""

    def __init__(self, model_files: Any, precision: str, device: str, name: str = "torch"):
        super().__init__(name, precision, device)
        if device == "cuda":
            self._held_before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        else:
            self._memory = ResidentMemory()
        loaded = load_checkpoint(model_files.checkpoint)
        self.config = loaded.config
        self.max_source = self.config.max_source_positions
        self._model = loaded.model.eval().to(device, DTYPES.get(precision, torch.float32))

    def run(self, src_tokens: np.ndarray) -> Output:
        tokens, scores = self._forward(torch.from_numpy(src_tokens).to(self.device))
        return Output(tokens.long().cpu().numpy(), scores.float().cpu().numpy())

    def _forward(self, src_tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode(), matmul_precision(self.precision):
            return self._model(src_tokens)

    def _device_ms(self, src_tokens: np.ndarray, repeats: int) -> list[float]:
        if self.device == "cpu":
            return []
        on_device = torch.from_numpy(src_tokens).to(self.device)
        for _ in range(WARM_UP):
            self._forward(on_device)
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for start, end in events:
            start.record()
            self._forward(on_device)
            end.record()
            end.synchronize()
        return [start.elapsed_time(end) for start, end in events]

    def peak_memory(self) -> int:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() - self._held_before
        return self._memory.peak()

    def close(self) -> None:
        self._model = None
        if self.device == "cuda":
            torch.cuda.empty_cache()


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """TF32 for the one precision that asks for it; a process-wide setting, so it is put back."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before
