"""Opens a plan that fits this machine, loads its engine, and makes its execution contexts."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from onnx_export.marks import PAIR
from train_model.cli import UserError, atomic_path, check_choice
from trt_code.engine.gpu import check, current_gpu, load_cudart
from trt_code.engine.plugin_library import load_plugins
from trt_code.engine.sidecar import (
    Sidecar,
    check_family,
    check_sidecar,
    graph_metadata,
    plugin_paths,
    read_sidecar,
)
from trt_code.engine.tensorrt_api import (
    RTX,
    deserialize,
    family_of,
    load_tensorrt,
    process_logger,
    title_of,
)

KERNELS = ("eager", "lazy", "none")
CUDA_GRAPHS = ("runner", "library", "none")


@dataclass(frozen=True)
class RuntimeOptions:
    """How an engine runs. The full TensorRT has ``cuda_graph`` "runner" and "none" only.

    Attributes:
        kernels: when TensorRT for RTX compiles kernels for a new shape: "eager" (at the shape's first pass),
            "lazy" (during the first passes, which use slower kernels) or "none" (never).
        cuda_graph: who captures a CUDA graph: "runner" (the code around the engine), "library" (TensorRT
            for RTX itself) or "none".
    """

    kernels: str = KERNELS[0]
    cuda_graph: str = CUDA_GRAPHS[0]

    def __post_init__(self) -> None:
        check_choice("kernels", self.kernels, KERNELS)
        check_choice("cuda_graph", self.cuda_graph, CUDA_GRAPHS)
        if self.cuda_graph == "runner" and self.kernels == "lazy":
            raise UserError(
                "kernels 'lazy' changes kernels after the first pass, which a graph that the runner captures "
                "would not see; choose cuda_graph 'library' or 'none' with it"
            )

    def check(self, trt: ModuleType) -> None:
        """Raise ``UserError`` if this TensorRT does not have the chosen options."""
        if family_of(trt) is RTX:
            return
        for name, value, known in (
            ("kernels", self.kernels, KERNELS[:1]),
            ("cuda_graph", self.cuda_graph, ("runner", "none")),
        ):
            if value not in known:
                raise UserError(
                    f"{name} {value!r} is an option of {RTX.title} and the plan is of {title_of(trt)}; "
                    f"choose {' or '.join(known)}"
                )


@dataclass(frozen=True)
class Plan:
    """A plan that fits this machine, and the content of its JSON."""

    path: Path
    sidecar: Sidecar
    trt: ModuleType

    @classmethod
    def open(cls, path: Path) -> "Plan":
        """Check the plan against its JSON and this machine, and load its plugins.

        Raises:
            UserError: the plan's TensorRT or a GPU is not here, or the plan is missing, stale, damaged or
                for another GPU, version or family.
        """
        sidecar = read_sidecar(path)
        trt = load_tensorrt(check_family(sidecar, path, os.environ.get("TENSORRT", "")))
        check_sidecar(sidecar, path, trt, current_gpu())
        for library in plugin_paths(sidecar, path):
            load_plugins(trt, library)
        return cls(path, sidecar, trt)

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the plan's graph, see ``sidecar.graph_metadata``."""
        return graph_metadata(self.sidecar, self.path)


def open_halves(encoder: Path, decoder: Path) -> list[Plan]:
    """Open the plans of a network's halves.

    Raises:
        UserError: see :meth:`Plan.open`; or the plans are of two exports of the network.
    """
    plans = [Plan.open(encoder), Plan.open(decoder)]
    known = [metadata for plan in plans if (metadata := plan.metadata())]
    if len({metadata.get(PAIR) for metadata in known}) > 1:
        commands = "; ".join(plan.sidecar.command for plan in plans)
        raise UserError(f"{encoder} and {decoder} are of two exports; build both again: {commands}")
    return plans


class Engine:
    """The engine of a plan: the names, types and shapes of its tensors, and its execution contexts.

    Args:
        plan: a plan from ``Plan.open``.
        options: how it runs.

    Attributes:
        inputs, outputs: names of the tensors.
        device_memory: bytes of scratch memory that a context needs.

    Raises:
        UserError: TensorRT cannot load the plan, or lacks an option.
    """

    def __init__(self, plan: Plan, options: RuntimeOptions | None = None) -> None:
        options = options or RuntimeOptions()
        options.check(plan.trt)
        self.plan, self.trt, self.profiles = plan, plan.trt, plan.sidecar.profiles
        name = f"{plan.path}; build it: {plan.sidecar.command}"
        self._engine = deserialize(self.trt, plan.path.read_bytes(), name)
        self.device_memory = self._engine.device_memory_size_v2
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        read = self.trt.TensorIOMode.INPUT
        self.inputs = [name for name in names if self._engine.get_tensor_mode(name) == read]
        self.outputs = [name for name in names if name not in self.inputs]
        self.captures = options.cuda_graph == "runner"
        self._settings = _Settings(self.trt, self._engine, options, cache_path(plan.path))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, with -1 where the size is free."""
        return tuple(self._engine.get_tensor_shape(name))

    def dtype(self, name: str) -> np.dtype:
        """NumPy's type of a tensor."""
        return np.dtype(self.trt.nptype(self._engine.get_tensor_dtype(name)))

    def make_context(
        self,
        profile: int,
        shapes: Mapping[str, tuple[int, ...]],
        scratch: tuple[int, int],
        stream: int,
    ) -> Any:
        """Return an execution context for these input shapes; the caller sets the tensors' addresses.

        Args:
            profile: the number of the optimisation profile.
            shapes: of every input.
            scratch: address and bytes of device memory that nothing else uses while the context runs.
            stream: the stream's handle; the call synchronises it.

        Raises:
            UserError: the memory does not suffice, or TensorRT refuses the shapes.
        """
        named = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        context = self._settings.create(self._engine)
        if context is None or not context.set_optimization_profile_async(profile, stream):
            raise UserError(
                f"TensorRT cannot make a context for {named} ({process_logger(self.trt).first_error()}); "
                "see `nvidia-smi` for memory"
            )
        check(load_cudart().cudaStreamSynchronize(stream))
        context.set_device_memory(*scratch)
        accepted = [context.set_input_shape(name, tuple(shape)) for name, shape in shapes.items()]
        if not all(accepted) or context.infer_shapes():
            raise UserError(f"TensorRT refuses the input shapes {named}")
        return context

    def enqueue(self, context: Any, stream: int) -> None:
        """Enqueue one pass of ``context`` on a stream; raises ``UserError`` if TensorRT fails."""
        if not context.execute_async_v3(stream):
            raise UserError(
                f"TensorRT could not run the engine: {process_logger(self.trt).first_error()}"
            )

    def close(self) -> None:
        """Write the kernels that were compiled for this GPU, and free the engine."""
        self._settings.close()
        self._engine = None


def cache_path(plan: Path) -> Path:
    """Return the file of kernels compiled by TensorRT for RTX: ``model.fp16.plan.kernels``."""
    return plan.parent / f"{plan.name}.kernels"


class _Settings:
    """The settings of an engine's contexts; for TensorRT for RTX also the kernel cache on disk."""

    def __init__(self, trt: ModuleType, engine: Any, options: RuntimeOptions, cache: Path) -> None:
        # Contexts share one scratch memory, so the caller owns it.
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._arguments = {"strategy": strategy}
        self._cache, self._path = None, cache
        if family_of(trt) is not RTX:
            return
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        graph = "WHOLE_GRAPH_CAPTURE" if options.cuda_graph == "library" else "DISABLED"
        config.cuda_graph_strategy = getattr(trt.CudaGraphStrategy, graph)
        strategies = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = getattr(
            strategies, options.kernels.upper()
        )
        self._cache = config.create_runtime_cache()
        self._known = cache.read_bytes() if cache.is_file() else b""
        if self._known and not self._cache.deserialize(self._known):
            print(
                f"{title_of(trt)} compiles kernels again: {cache} is of another machine",
                file=sys.stderr,
            )
        config.set_runtime_cache(self._cache)
        self._arguments = {"runtime_config": config}

    def create(self, engine: Any) -> Any:
        return engine.create_execution_context(**self._arguments)

    def close(self) -> None:
        """Write the cache if it has grown; if the disk is full, the next start compiles again."""
        if self._cache is None:
            return
        kernels = bytes(memoryview(self._cache.serialize()))
        if kernels != self._known:
            try:
                with atomic_path(self._path) as temporary:
                    temporary.write_bytes(kernels)
            except UserError as error:
                print(f"warning: {error}; the next start compiles kernels again", file=sys.stderr)
        self._cache = None
