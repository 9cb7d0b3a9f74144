"""``torch.compile`` of the plain network: PyTorch's own optimisation, for comparison."""

from pathlib import Path
from typing import TYPE_CHECKING

from trt_code.runners.one_pass.torch_runner import TorchRunner, checkpoint_of
from trt_code.runners.pytorch import PRECISIONS
from trt_code.runners.spec import Request, RunnerSpec

if TYPE_CHECKING:
    import torch


def create(request: Request, *, mode: str) -> "TorchCompileRunner":
    """Load the checkpoint, cast and compile it; see ``trt_code.runners.create``.

    ``mode`` is PyTorch's: ``default``, ``reduce-overhead`` (CUDA graphs) or ``max-autotune``.
    """
    return TorchCompileRunner(checkpoint_of(request), request, mode)


class TorchCompileRunner(TorchRunner):
    """Compiles at the first pass of a shape, which takes long for a deep network."""

    def __init__(self, checkpoint: Path, request: Request, mode: str):
        import torch

        super().__init__(checkpoint, request)
        self._model = torch.compile(self._model, mode=mode, dynamic=False)

    def _forward(self, src_tokens: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        import torch

        torch.compiler.cudagraph_mark_step_begin()
        return super()._forward(src_tokens)


RUNNERS = tuple(
    RunnerSpec(name, create, PRECISIONS, rival=True, compiles=True, options={"mode": mode})
    for name, mode in (
        ("torch-compile", "reduce-overhead"),
        ("torch-compile-default", "default"),
        ("torch-compile-max", "max-autotune"),
    )
)
