"""Every architecture in every runner and precision: tokens are compared with PyTorch in FP32 on the CPU."""

import functools

import numpy as np
import pytest

from onnx_export import verify
from train_model.models.architectures import ARCHITECTURES
from train_model.ops import load_cuda_library
from trt_code import evaluate, translate
from trt_code.runners import Runner, Unavailable
from trt_code.runners.base import widen
from trt_code.tests.networks.cells import Cell, cells, least_share, reference_precision
from trt_code.tests.networks.small_model import SmallModel
from trt_code.text.batching import pad

IN_EVERY_RUN = ("cmlm_transformer", "lightconv", "nacrf_transformer")
BATCHES = [
    pad([[0, *range(4, 12), 2], [0, 9, 2], [0, 30, 31, 32, 2]]),
    pad([[0, 7, 8, 2]]),
    pad([[0, *range(size, 4, -1), 2] for size in (33, 12, 7, 6, 20)]),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a function that makes the small model of an architecture, once."""

    @functools.cache
    def made(architecture: str) -> SmallModel:
        return SmallModel(architecture, tmp_path_factory.mktemp(architecture))

    return made


def on_a_cpu() -> list:
    """Return the cells, with the marker slow except for those of ``in_every_run``."""
    return [
        pytest.param(cell, id="-".join(cell), marks=() if in_every_run(cell) else pytest.mark.slow)
        for cell in cells("cpu")
    ]


def in_every_run(cell: Cell) -> bool:
    """Whether the cell is FP32 in one file, or of the network that represents its family.

    BF16 graphs go through the same steps as FP16 graphs, so ONNX Runtime's BF16 cells are slow tests for
    these networks too.
    """
    if cell.architecture in IN_EVERY_RUN:
        return cell.precision != "bf16" or cell.runner == "torch"
    return cell.precision == "fp32" and cell.runner != "ort-split"


def equal_share(runner: Runner, reference: Runner) -> float:
    """Return the share of equal tokens over all batches; each batch runs twice, and the second run counts."""
    same = total = 0
    for src_tokens in BATCHES:
        expected = reference.run(src_tokens).tokens
        runner.run(src_tokens)
        output = runner.run(src_tokens)
        assert np.isfinite(output.scores).all()
        width = max(expected.shape[1], output.tokens.shape[1])
        tokens, expected = (widen(x, width) for x in (output.tokens, expected))
        real = (tokens != 1) | (expected != 1)
        same, total = same + (tokens == expected)[real].sum(), total + real.sum()
    return same / total


def check(small: SmallModel, cell: Cell) -> None:
    """Compare a cell's tokens with the reference's."""
    if cell.precision in ("int8", "fp8"):
        pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed (make env)")
    with (
        small.runner("torch", reference_precision(cell), "cpu") as reference,
        small.runner(cell.runner, cell.precision, cell.device) as runner,
    ):
        assert runner.precision == cell.precision
        assert equal_share(runner, reference) >= least_share(cell)


@pytest.mark.parametrize("cell", on_a_cpu())
def test_on_a_cpu(model, cell):
    check(model(cell.architecture), cell)


@pytest.mark.gpu
@pytest.mark.parametrize("cell", cells("cuda"), ids="-".join)
def test_on_a_gpu(model, cell):
    fused = cell.runner == "cuda-graph" and cell.architecture == "conv_crf_transformer"
    if fused and not load_cuda_library():
        pytest.skip("the CUDA operators are not built")
    try:
        check(model(cell.architecture), cell)
    except Unavailable as unavailable:
        if "this onnxruntime has no CUDA" not in str(unavailable):
            raise
        pytest.skip(str(unavailable))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_verify(model, architecture, capsys):
    small = model(architecture)
    given = ["--checkpoint", str(small.files.checkpoint), "--onnx", str(small.graph("fp32"))]
    assert verify.main(given) == 0
    if small.files.family == "one-pass":
        small.graph("fp32", split=True)
        assert verify.main([*given, "--split"]) == 0
    assert "batches agree" in capsys.readouterr().out


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_translate_and_eval(model, architecture, capsys):
    small = model(architecture)
    small.graph("fp32")
    capsys.readouterr()  # of the import and the export, where no test before has made them
    for runner in ("torch", "ort"):
        small.run(translate.main, "--device", "cpu", "--runner", runner, "--", "ab c", "ad")
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 5
    assert lines[:2] == lines[2:4]
    arguments = ("--device", "cpu", "--runner", "ort", "--precision", "fp32")
    assert not small.run(evaluate.main, *arguments, output="eval")
    assert list((small.out / "eval").glob("*.json"))
