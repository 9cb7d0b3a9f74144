"""The ways to run the network, behind one small interface (``base.Runner``).

``create`` imports the module of the runner asked for and no other, so that a machine needs only
what it uses. To add a runner, write its module with
``create(model_files, precision, device, **options)`` and name it in ``RUNNERS``.
"""

import importlib
import time
from typing import Any

from train_model.cli import UserError
from trt_code.runners.base import Output, Runner, Timing, Unavailable

__all__ = [
    "PRECISIONS",
    "RIVALS",
    "RUNNERS",
    "Output",
    "Runner",
    "Timing",
    "Unavailable",
    "create",
]

RUNNERS = {
    "torch": "trt_code.runners.one_pass.torch_runner",
    "ort": "trt_code.runners.one_pass.ort_runner",
    "ort-split": "trt_code.runners.one_pass.ort_runner",
    "cuda-graph": "trt_code.runners.one_pass.cuda_graph_runner",
    "trt": "trt_code.runners.one_pass.trt_runner",
    "trt-split": "trt_code.runners.one_pass.trt_split_runner",
}
# What a user might take instead, for the table alone: PyTorch's own ways to be fast, and our graphs
# with as much work as the original does.
RIVALS = {
    "torch-graph": "trt_code.runners.one_pass.torch_graph_runner",
    "torch-compile": "trt_code.runners.one_pass.torch_compile_runner",
    "torch-compile-default": "trt_code.runners.one_pass.torch_compile_runner",
    "torch-compile-max": "trt_code.runners.one_pass.torch_compile_runner",
    "cuda-graph-full": "trt_code.runners.one_pass.cuda_graph_runner",
}
# What a name asks of its module.
OPTIONS: dict[str, dict[str, Any]] = {
    "ort-split": {"split": True},
    "torch-compile": {"mode": "reduce-overhead"},
    "torch-compile-default": {"mode": "default"},
    "torch-compile-max": {"mode": "max-autotune"},
    "cuda-graph-full": {"canvas": "full"},
}
# The same for networks that give one token at a time; their runners search with a beam.
AUTOREGRESSIVE = {
    "torch": "trt_code.runners.search.torch_steps",
    "ort": "trt_code.runners.search.ort_steps",
    "cuda-graph": "trt_code.runners.search.cuda_graph_steps",
    "trt": "trt_code.runners.search.trt_steps",
}
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")


def create(name: str, model_files: Any, precision: str, device: str, **options: Any) -> Runner:
    """Make a runner.

    Args:
        name: one of ``RUNNERS`` or ``RIVALS``.
        model_files: what ``train_model.models.zoo.model_files`` gave.
        precision: one of ``PRECISIONS``.
        device: "cpu" or "cuda".
        options: ``threads`` (CPU threads, 0 = all cores), ``build_dir`` (where the ONNX files and
            engines are; "build"). Each runner takes what it knows.

    Raises:
        Unavailable: this machine cannot run it, or what it runs has not been built.
        UserError: no such runner, precision or device.
    """
    for kind, value, known in (
        ("runner", name, RUNNERS | RIVALS),
        ("precision", precision, PRECISIONS),
        ("device", device, ("cpu", "cuda")),
    ):
        if value not in known:
            raise UserError(f"no {kind} {value!r}; choose from {', '.join(known)}")
    if model_files.autoregressive and name not in AUTOREGRESSIVE:
        raise Unavailable(
            f"{model_files.name} gives one token at a time; {name} does not do that yet"
        )
    modules = AUTOREGRESSIVE if model_files.autoregressive else RUNNERS | RIVALS
    module = importlib.import_module(modules[name])
    options = {"name": name} | options | OPTIONS.get(name, {})
    start = time.perf_counter()
    runner = module.create(model_files, precision, device, **options)
    runner.make_ms = (time.perf_counter() - start) * 1e3
    return runner
