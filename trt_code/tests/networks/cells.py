"""The registry of what is tested of each architecture; the README's table is written from it.

A cell is a runner in a precision on a device. ``test_every_network`` runs every cell and compares its tokens
with PyTorch's in FP32; ``test_engines`` builds the engines. What a runner declares is tested, so it needs no
entry here.
"""

from typing import NamedTuple

from train_model.models.architectures import ARCHITECTURES
from trt_code.runners import names, spec


class Cell(NamedTuple):
    """One test."""

    architecture: str
    runner: str
    precision: str
    device: str


def cells(device: str) -> list[Cell]:
    """Return the cells of the project's runners on a device, network by network."""
    return [
        Cell(architecture, runner, precision, device)
        for architecture, entry in ARCHITECTURES.items()
        for runner in names()
        if (declared := spec(runner, entry.family)) is not None and declared.reads != "engine"
        for precision in declared.precisions.get(device, ())
        # FP8 is for the network that our kernels run whole
        if precision != "fp8" or architecture == "conv_crf_transformer"
    ]


ENGINES = ("tf32", "fp16", "bf16", "int8")
"""The precisions in which ``test_engines`` builds every architecture with TensorRT for RTX."""

# FP8 computes batches as small as these in FP16
_SHARES = {"fp32": 1.0, "tf32": 0.95, "fp16": 0.95, "bf16": 0.8, "int8": 0.6, "fp8": 0.95}
_SHARES_OF_LOOPS = {"fp32": 1.0, "tf32": 0.8, "fp16": 0.8, "bf16": 0.5, "int8": 0.3}
_SAME_INTEGERS = "fp16"  # two runners of one INT8 network differ as little as FP16 from FP32


def reference_precision(cell: Cell) -> str:
    """Return PyTorch's precision for the comparison: INT8 for other runners in INT8, otherwise FP32."""
    return "int8" if cell.precision == "int8" and cell.runner != "torch" else "fp32"


def least_share(cell: Cell) -> float:
    """Return the smallest accepted share of tokens that equal PyTorch's in ``reference_precision``.

    With random weights many words score about the same, so rounding changes some choices. An autoregressive
    or iterative network reads its own tokens, so one changed token changes others.
    """
    reads_itself = ARCHITECTURES[cell.architecture].family != "one-pass"
    precision = _SAME_INTEGERS if reference_precision(cell) == "int8" else cell.precision
    return (_SHARES_OF_LOOPS if reads_itself else _SHARES)[precision]
