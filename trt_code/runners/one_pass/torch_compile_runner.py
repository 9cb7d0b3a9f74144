"""``torch.compile`` of the plain network: what one gets by asking PyTorch to be fast."""

from typing import Any

import torch

from trt_code.runners.one_pass.torch_runner import TorchRunner, check_available


def create(
    model_files: Any, precision: str, device: str, *, name: str, mode: str, **_: Any
) -> "TorchCompileRunner":
    """Load the checkpoint, cast and compile it; see ``trt_code.runners.create``.

    ``mode`` is PyTorch's: ``default``, ``reduce-overhead`` (CUDA graphs) or ``max-autotune``.
    """
    check_available(precision, device)
    return TorchCompileRunner(model_files, precision, device, name, mode)


class TorchCompileRunner(TorchRunner):
    """Compiles at the first pass of a shape, which takes long for a deep network."""

    def __init__(self, model_files: Any, precision: str, device: str, name: str, mode: str):
        super().__init__(model_files, precision, device, name)
        self._model = torch.compile(self._model, mode=mode, dynamic=False)

    def _forward(self, src_tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        torch.compiler.cudagraph_mark_step_begin()
        return super()._forward(src_tokens)
