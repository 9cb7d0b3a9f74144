"""The TensorRT runner: a plan built by ``trt_code.build_engine``, one CUDA graph a shape.

A captured graph is bound to the execution context it was captured from, and changing that context's
shape afterwards is undefined. So every shape has its own context; all share one scratch memory,
which is safe because they run on one stream. Written against TensorRT's documentation and bindings:
until a machine with TensorRT has run it, only its control flow is proven (tests/test_trt_runner.py).
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from train_model.cli import UserError
from trt_code.engine.gpu import DeviceBuffer, check, current_gpu, load_cudart
from trt_code.engine.plugin_library import load_plugins
from trt_code.engine.profiles import Shape, best_profile
from trt_code.engine.sidecar import Sidecar, check_sidecar, plugin_paths, read_sidecar
from trt_code.engine.tensorrt_api import deserialize, load_tensorrt, process_logger
from trt_code.runners.base import WARM_UP, Output, Runner, Unavailable
from trt_code.runners.turns import Turns

MAX_SHAPES = 64
"""Shapes that are kept ready. Each costs a context and small buffers; the longest unused one goes."""

OUTPUTS = ("output_tokens", "output_scores")


def create(
    model_files: Any, precision: str, device: str, *, build_dir: str | Path = "build", **_: Any
) -> "TrtRunner":
    """Make the runner of ``<build_dir>/<model>/model.<precision>.plan``.

    Raises:
        Unavailable: no TensorRT or GPU here, or the plan is missing, stale, foreign or damaged.
    """
    with plans_on(device, instead="ort"):
        return TrtRunner(Path(build_dir) / model_files.name / f"model.{precision}.plan", precision)


@contextmanager
def plans_on(device: str, instead: str) -> Iterator[None]:
    """Within it, a plan that cannot be used makes its runner unavailable.

    Raises:
        Unavailable: that, or ``device`` is no GPU; ``instead`` is the runner to take there.
    """
    if device != "cuda":
        raise Unavailable(
            f"TensorRT runs on a GPU only; use --device cuda, or the runner {instead}"
        )
    try:
        yield
    except UserError as error:
        raise Unavailable(str(error)) from error


@dataclass(frozen=True)
class Plan:
    """A plan that fits this machine, and what its JSON says."""

    path: Path
    sidecar: Sidecar
    trt: ModuleType

    @classmethod
    def open(cls, path: Path) -> "Plan":
        """Hold the plan against its JSON and this machine, and load its plugins.

        Raises:
            UserError: no TensorRT or GPU here, or the plan is missing, stale, foreign or damaged.
        """
        sidecar = read_sidecar(path)
        trt = load_tensorrt()
        check_sidecar(sidecar, path, trt, current_gpu())
        for library in plugin_paths(sidecar, path):
            load_plugins(trt, library)
        return cls(path, sidecar, trt)

    def engine(self) -> Any:
        """Load it; raises ``UserError`` where TensorRT cannot."""
        name = f"{self.path}; build it: {self.sidecar.command}"
        return deserialize(self.trt, self.path.read_bytes(), name)


class Stream:
    """A CUDA stream of its own, and how much of the GPU's memory has gone since it was made."""

    def __init__(self) -> None:
        self._cudart = load_cudart()
        self._free_at_start = self._least_free = self._free_memory()
        self.handle = check(
            self._cudart.cudaStreamCreateWithFlags(self._cudart.cudaStreamNonBlocking)
        )

    def milliseconds(self, work: Callable[[], None]) -> float:
        """The device's time between before and after ``work``."""
        start, end = (check(self._cudart.cudaEventCreate()) for _ in range(2))
        check(self._cudart.cudaEventRecord(start, self.handle))
        work()
        check(self._cudart.cudaEventRecord(end, self.handle))
        check(self._cudart.cudaEventSynchronize(end))
        milliseconds = check(self._cudart.cudaEventElapsedTime(start, end))
        for event in (start, end):
            check(self._cudart.cudaEventDestroy(event))
        return milliseconds

    def look_at_memory(self) -> None:
        """Note what is free now."""
        self._least_free = min(self._least_free, self._free_memory())

    @property
    def most_memory(self) -> int:
        """Device bytes taken so far; what other processes take meanwhile counts too."""
        return max(0, self._free_at_start - self._least_free)

    def close(self) -> None:
        check(self._cudart.cudaStreamDestroy(self.handle))

    def _free_memory(self) -> int:
        free, _ = check(self._cudart.cudaMemGetInfo())
        return free


class ReadyShapes:
    """What runs each shape, kept for the shapes that were used last."""

    def __init__(self) -> None:
        self._ready: OrderedDict[Any, ShapeRun] = OrderedDict()

    def get(self, key: Any, make: Callable[[], "ShapeRun"]) -> "ShapeRun":
        """The one of this key, made if it is not there."""
        if key not in self._ready:
            if len(self._ready) == MAX_SHAPES:
                self._ready.popitem(last=False)[1].close()
            self._ready[key] = make()
        self._ready.move_to_end(key)
        return self._ready[key]

    def keys(self) -> list:
        """From the longest unused to the last used."""
        return list(self._ready)

    def close(self) -> None:
        for shape_run in self._ready.values():
            shape_run.close()
        self._ready.clear()


class TrtRunner(Runner):
    """Runs one plan. See ``Runner`` for shapes and types.

    All shapes share one stream, their scratch memory and their books, so threads take turns.

    Raises:
        UserError: as ``create``'s Unavailable.
    """

    def __init__(self, plan: Path, precision: str):
        super().__init__("trt", precision, "cuda")
        opened = Plan.open(plan)
        self._trt, self._profiles = opened.trt, opened.sidecar.profiles
        self._stream = Stream()
        self._engine = opened.engine()
        self.max_source = max(profile.max.length for profile in self._profiles)
        self.max_batch = max(profile.max.batch for profile in self._profiles)
        self._input = _input_name(self._trt, self._engine, plan)
        self._scratch = DeviceBuffer(self._engine.device_memory_size_v2)
        self._ready = ReadyShapes()
        self._turns = Turns()

    def run(self, src_tokens: np.ndarray) -> Output:
        feeds = {self._input: src_tokens}
        with self._turns:
            tokens, scores = self._shape_run(src_tokens).run(feeds, OUTPUTS)
        return Output(tokens.astype(np.int64), scores.astype(np.float32))

    def _device_ms(self, src_tokens: np.ndarray, repeats: int) -> list[float]:
        with self._turns:
            shape_run = self._shape_run(src_tokens)
            shape_run.run({self._input: src_tokens}, OUTPUTS)
            for _ in range(WARM_UP):
                shape_run.launch()
            return [self._stream.milliseconds(shape_run.launch) for _ in range(repeats)]

    def peak_memory(self) -> int:
        """Device bytes taken since the plan was loaded: weights, contexts, scratch, buffers, graphs.

        It is the drop in the GPU's free memory, so what other processes take meanwhile counts too.
        """
        return self._stream.most_memory

    def close(self) -> None:
        self._ready.close()
        self._scratch.close()
        self._stream.close()
        self._engine = None

    def _shape_run(self, src_tokens: np.ndarray) -> "ShapeRun":
        """Return what runs this shape, made at its first use; refuse what no profile accepts."""
        shape = source_shape(src_tokens)

        def make() -> ShapeRun:
            profile = best_profile(self._profiles, shape)
            made = ShapeRun(
                self._trt,
                self._engine,
                profile,
                {self._input: shape},
                OUTPUTS,
                self._scratch,
                self._stream.handle,
            )
            self._stream.look_at_memory()
            return made

        return self._ready.get(shape, make)


def source_shape(src_tokens: np.ndarray) -> Shape:
    """The batch and length of ``src_tokens``; raises ``UserError`` for what is no such array."""
    if src_tokens.ndim != 2 or src_tokens.dtype.kind not in "iu":
        raise UserError(
            f"src_tokens is {src_tokens.dtype} of shape {src_tokens.shape}; "
            "TensorRT takes whole numbers of [batch, length]"
        )
    return Shape(*src_tokens.shape)


class ShapeRun:
    """One set of input shapes: its context, its input and output memory, its CUDA graph.

    Args:
        trt, engine: the module, and what is run.
        profile: the number of the optimisation profile.
        shapes: of every input, by name.
        outputs: the engine's outputs.
        scratch: memory that no one else uses while this runs.
        stream: the stream's handle.
        shared: memory of inputs and outputs that belongs to the caller, large enough.
    """

    def __init__(
        self,
        trt: ModuleType,
        engine: Any,
        profile: int,
        shapes: Mapping[str, tuple[int, ...]],
        outputs: Sequence[str],
        scratch: DeviceBuffer,
        stream: Any,
        shared: Mapping[str, DeviceBuffer] | None = None,
    ):
        self._cudart = load_cudart()
        self._stream = stream
        self._context = engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        context = self._context
        named = ", ".join(f"{name} {shape_text(shape)}" for name, shape in shapes.items())
        if context is None or not context.set_optimization_profile_async(profile, int(stream)):
            raise UserError(
                f"TensorRT cannot make a context for {named}; see `nvidia-smi` for memory"
            )
        check(self._cudart.cudaStreamSynchronize(stream))
        context.set_device_memory(scratch.pointer, scratch.size)
        accepted = [context.set_input_shape(name, tuple(shape)) for name, shape in shapes.items()]
        if not all(accepted) or context.infer_shapes():
            raise UserError(f"TensorRT refuses the input shape {named}")
        # what each tensor is on the host: shape and type
        self._templates = {
            name: np.empty(
                tuple(context.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name))
            )
            for name in (*shapes, *outputs)
        }
        shared = shared or {}
        self._own = {
            name: DeviceBuffer(template.nbytes)
            for name, template in self._templates.items()
            if name not in shared
        }
        self._buffers = {name: shared.get(name) or self._own[name] for name in self._templates}
        for name, buffer in self._buffers.items():
            context.set_tensor_address(name, buffer.pointer)
        for name in self._own.keys() & shapes.keys():
            buffer = self._own[name]
            check(self._cudart.cudaMemsetAsync(buffer.pointer, 0, buffer.size, stream))
        self._graph = self._capture()

    def run(self, feeds: Mapping[str, np.ndarray], wanted: Sequence[str]) -> list[np.ndarray]:
        """Copy in, run, copy out; the arrays are the caller's."""
        self.fill(feeds)
        self.launch()
        return self.fetch(wanted)

    def fill(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Copy inputs to the device, in the types that the engine asks for."""
        for name, array in feeds.items():
            source = np.ascontiguousarray(array, self._templates[name].dtype)
            kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
            self._copy(self._buffers[name].pointer, source.ctypes.data, source.nbytes, kind)

    def fetch(self, wanted: Sequence[str]) -> list[np.ndarray]:
        """Wait for the results and copy these."""
        results = [np.empty_like(self._templates[name]) for name in wanted]
        for name, result in zip(wanted, results, strict=True):
            kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
            self._copy(result.ctypes.data, self._buffers[name].pointer, result.nbytes, kind)
        check(self._cudart.cudaStreamSynchronize(self._stream))
        return results

    def launch(self) -> None:
        """Enqueue the network on the input memory as it is."""
        if self._graph is None:
            self._enqueue()
        else:
            check(self._cudart.cudaGraphLaunch(self._graph, self._stream))

    def close(self) -> None:
        check(self._cudart.cudaStreamSynchronize(self._stream))
        if self._graph is not None:
            check(self._cudart.cudaGraphExecDestroy(self._graph))
        for buffer in self._own.values():
            buffer.close()
        self._context = None

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise UserError(f"TensorRT could not run the engine: {process_logger().last_error()}")

    def _capture(self) -> Any:
        """Return the instantiated graph of one pass; None, said once, where the engine has none.

        The pass before it lets TensorRT and the plugins do what they do only once, outside the graph.
        """
        cudart = self._cudart
        self._enqueue()
        check(cudart.cudaStreamSynchronize(self._stream))
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(cudart.cudaStreamBeginCapture(self._stream, mode))
        enqueued = self._context.execute_async_v3(int(self._stream))
        status, graph = cudart.cudaStreamEndCapture(self._stream)
        if not enqueued or status != cudart.cudaError_t.cudaSuccess:
            cudart.cudaGetLastError()  # the failed capture must not be charged to the next call
            warnings.warn(
                "this engine cannot be captured in a CUDA graph; each pass is enqueued instead",
                stacklevel=2,
            )
            return None
        executable = check(cudart.cudaGraphInstantiate(graph, 0))
        check(cudart.cudaGraphDestroy(graph))
        return executable

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        check(self._cudart.cudaMemcpyAsync(target, source, size, kind, self._stream))


def shape_text(shape: Sequence[int]) -> str:
    """``16x32``."""
    return "x".join(map(str, shape))


def _input_name(trt: ModuleType, engine: Any, plan: Path) -> str:
    """Return the name of the engine's one input, having seen that its outputs are ours."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    if len(inputs) != 1 or set(names) - set(inputs) != set(OUTPUTS):
        raise UserError(
            f"{plan} has the tensors {', '.join(names)}; this runner takes one input and gives "
            f"{' and '.join(OUTPUTS)}"
        )
    return inputs[0]
