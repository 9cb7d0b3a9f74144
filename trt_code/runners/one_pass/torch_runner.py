"""The network in PyTorch as it is: the reference in FP32, and the baseline in other precisions."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trt_code.runners.base import WARM_UP, Output, Runner, Unavailable
from trt_code.runners.memory import AllocatorMemory, ResidentMemory
from trt_code.runners.pytorch import PRECISIONS, check_device, dtype_of, matmul_precision
from trt_code.runners.spec import RunnerSpec

if TYPE_CHECKING:
    import torch


def create(
    model_files: Any,
    precision: str,
    device: str,
    *,
    name: str,
    build_dir: str | Path = "build",
    threads: int = 0,
    **_: Any,
) -> "TorchRunner":
    """Load the checkpoint and cast it; see ``trt_code.runners.create``.

    INT8 is the checkpoint that ``make qat`` or else ``make ptq`` made.
    """
    files = checkpoint_files(model_files, precision, device, build_dir, threads)
    return TorchRunner(files, precision, device, name)


def checkpoint_files(
    model_files: Any, precision: str, device: str, build_dir: str | Path, threads: int
) -> Any:
    """The model's files, for INT8 with its quantised checkpoint; sets PyTorch's CPU threads.

    Raises:
        Unavailable: there is no such device, or the model is not quantised.
    """
    import torch

    from train_model.model_folder import quantized_checkpoint

    check_device(device)
    if threads:
        torch.set_num_threads(threads)
    if precision != "int8":  # which PyTorch computes in FP32, with INT8's rounding around products
        return model_files
    checkpoint = quantized_checkpoint(model_files.name, build_dir)
    if checkpoint is None:
        raise Unavailable(f"{model_files.name} is not quantised (make ptq or make qat)")
    return dataclasses.replace(model_files, checkpoint=checkpoint)


class TorchRunner(Runner):
    """Weights and activations are cast outright, without autocast, as an engine would have them."""

    def __init__(self, model_files: Any, precision: str, device: str, name: str):
        from train_model.models.checkpoint import load_checkpoint

        super().__init__(name, precision, device)
        self._memory = AllocatorMemory() if device == "cuda" else ResidentMemory()
        loaded = load_checkpoint(model_files.checkpoint)
        self.config = loaded.config
        self.max_source = self.config.max_source_positions
        self._model = loaded.model.eval().to(device, dtype_of(precision))

    def run(self, src_tokens: np.ndarray) -> Output:
        import torch

        tokens, scores = self._forward(torch.from_numpy(src_tokens).to(self.device))
        return Output(tokens.long().cpu().numpy(), scores.float().cpu().numpy())

    def _forward(self, src_tokens: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        import torch

        with torch.inference_mode(), matmul_precision(self.precision, self.device):
            return self._model(src_tokens)

    def _device_ms(self, src_tokens: np.ndarray, repeats: int) -> list[float]:
        if self.device == "cpu":
            return []
        import torch

        from trt_code.runners.timing import device_ms

        on_device = torch.from_numpy(src_tokens).to(self.device)
        for _ in range(WARM_UP):
            self._forward(on_device)
        return device_ms(lambda: self._forward(on_device), repeats)

    def peak_memory(self) -> int:
        return self._memory.peak()

    def close(self) -> None:
        self._model = None
        if self.device == "cuda":
            import torch

            torch.cuda.empty_cache()


RUNNERS = (
    RunnerSpec(
        "torch",
        create,
        {device: (*precisions, "int8") for device, precisions in PRECISIONS.items()},
    ),
)
