"""The ways to run a network, behind one small interface (``base.Runner``).

To add a runner, write a module that declares ``RUNNERS``, a tuple of ``spec.RunnerSpec``, and name it in
``MODULES``. Everything that lists, compares or chooses runners reads these declarations. Importing this
package imports no framework; a machine needs only the framework of the runner it uses.
"""

import importlib
import time
from typing import Any

from train_model.cli import check_choice
from train_model.models.architectures import Family
from trt_code.runners.base import Output, Runner, Timing, Unavailable
from trt_code.runners.pairing import check_config
from trt_code.runners.spec import PRECISIONS, Request, RunnerSpec

__all__ = [
    "PRECISIONS",
    "RUNNERS",
    "Output",
    "Request",
    "Runner",
    "RunnerSpec",
    "Timing",
    "Unavailable",
    "create",
    "names",
    "rivals",
    "spec",
]

# In the order in which a table shows them.
MODULES = (
    "native_runner",
    "one_pass.torch_runner",
    "one_pass.ort_runner",
    "one_pass.cuda_graph_runner",
    "one_pass.trt_runner",
    "one_pass.trt_split_runner",
    "one_pass.torch_graph_runner",
    "one_pass.torch_compile_runner",
    "search.torch_steps",
    "search.ort_steps",
    "search.cuda_graph_steps",
    "search.trt_runner",
    "search.ctranslate2_runner",
)


def _declared() -> dict[str, list[RunnerSpec]]:
    found: dict[str, list[RunnerSpec]] = {}
    for module in MODULES:
        for declared in importlib.import_module(f"{__name__}.{module}").RUNNERS:
            found.setdefault(declared.name, []).append(declared)
    return found


RUNNERS: dict[str, list[RunnerSpec]] = _declared()
"""All runners by name; one that serves several families may have a declaration for each."""


def names() -> list[str]:
    """The names of the project's own runners."""
    return [name for name, specs in RUNNERS.items() if not specs[0].rival]


def rivals() -> list[str]:
    """The names of the runners that serve only for comparison."""
    return [name for name, specs in RUNNERS.items() if specs[0].rival]


def spec(name: str, family: Family) -> RunnerSpec | None:
    """Return the declaration of the runner ``name`` for a family of networks, or None."""
    found = (declared for declared in RUNNERS[name] if family in declared.families)
    return next(found, None)


def create(name: str, model_files: Any, precision: str, device: str, **options: Any) -> Runner:
    """Make a runner.

    Args:
        name: one of ``names()`` or ``rivals()``.
        model_files: a ``train_model.model_folder.ModelFolder``.
        precision: one of ``PRECISIONS``.
        device: "cpu" or "cuda".
        options: the other fields of ``spec.Request``, e.g. ``threads`` and ``build_dir``.

    Raises:
        Unavailable: this machine cannot run it, or its files have not been built.
        UserError: the runner, precision or device does not exist.
    """
    check_choice("runner", name, names() + rivals())
    check_choice("precision", precision, PRECISIONS)
    check_choice("device", device, ("cpu", "cuda"))
    chosen = spec(name, model_files.family)
    if chosen is None:
        raise Unavailable(
            f"{name} does not run {model_files.family} networks, and {model_files.name} is one"
        )
    request = Request(model_files, precision, device, name, **options)
    chosen.check(request)
    start = time.perf_counter()
    runner = chosen.create(request, **chosen.options)
    runner.make_ms = (time.perf_counter() - start) * 1e3
    runner.n_best = chosen.n_best
    if runner.config is not None:
        try:
            check_config(runner.config, request)
        except Unavailable:
            runner.close()
            raise
    return runner
