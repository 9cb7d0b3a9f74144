"""The network in PyTorch as it is: the reference in FP32, and the baseline in other precisions."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from train_model.models.canvas import initial_canvas
from train_model.models.hypotheses import Found
from trt_code.runners.base import WARM_UP, Output, Runner, Unavailable
from trt_code.runners.memory import AllocatorMemory, ResidentMemory
from trt_code.runners.one_pass.several_lengths import translate_lengths
from trt_code.runners.pytorch import (
    PRECISIONS,
    check_device,
    dtype_of,
    matmul_precision,
    set_threads,
)
from trt_code.runners.spec import Request, RunnerSpec

if TYPE_CHECKING:
    import torch


def create(request: Request) -> "TorchRunner":
    """Load the checkpoint and cast it; see ``trt_code.runners.create``.

    INT8 uses the checkpoint of ``make qat``, or else of ``make ptq``. PyTorch then rounds to INT8 around the
    products, and computes in FP32.
    """
    return TorchRunner(checkpoint_of(request), request)


def checkpoint_of(request: Request) -> Path:
    """Return the model's checkpoint, for INT8 and FP8 the quantised one; set PyTorch's CPU threads.

    Raises:
        Unavailable: the device is missing, or the model is not quantised.
    """
    check_device(request.device)
    set_threads(request.threads)
    checkpoint = request.origins[0]
    if checkpoint is None:
        raise Unavailable(f"{request.model.name} is not quantised (make ptq or make qat)")
    return checkpoint


class TorchRunner(Runner):
    """Casts weights and activations, without autocast, to the types that an engine uses."""

    def __init__(self, checkpoint: Path, request: Request):
        from train_model.models.checkpoint import load_checkpoint
        from train_model.models.refinement import Refinement

        super().__init__(request.name, request.precision, request.device)
        self._memory = AllocatorMemory() if self.device == "cuda" else ResidentMemory()
        loaded = load_checkpoint(checkpoint)
        self.config = loaded.config
        self.max_source = self.config.max_source_positions
        self._model = loaded.model.eval().to(self.device, dtype_of(self.precision))
        self._model.refinement = Refinement.of(loaded.kind, vars(self.config), request.max_iter)

    def run(self, src_tokens: np.ndarray) -> Output:
        import torch

        tokens, scores = self._forward(torch.from_numpy(src_tokens).to(self.device))
        return Output(tokens.long().cpu().numpy(), scores.float().cpu().numpy())

    def _forward(self, src_tokens: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        import torch

        with torch.inference_mode(), matmul_precision(self.precision, self.device):
            return self._model(src_tokens)

    def _several(self, src_tokens: np.ndarray, count: int) -> Found:
        import torch

        on_device, model = torch.from_numpy(src_tokens).to(self.device), self._model

        def fill(canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            given = torch.from_numpy(canvas).to(self.device)
            tokens, scores = model.choose(model.decode(given, source), given)
            return tokens.long().cpu().numpy(), scores.float().cpu().numpy()

        def decode(lengths: np.ndarray) -> Output:
            canvas = initial_canvas(lengths, int(lengths.max()))
            return Output(*model.refinement.run(fill, canvas))

        with torch.inference_mode(), matmul_precision(self.precision, self.device):
            source = model.encode(on_device)
            predicted = model.predict_length(source).cpu().numpy()
            widest = model.canvas_width(src_tokens.shape[1])
            return translate_lengths(predicted, count, widest, decode)

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
        families=("one-pass", "iterative"),
        n_best=True,
    ),
)
