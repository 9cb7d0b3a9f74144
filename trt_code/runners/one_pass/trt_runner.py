"""The TensorRT runner: a plan built by ``trt_code.build_engine``, one CUDA graph per shape.

A captured graph is bound to the execution context it was captured from, and changing that context's
shape afterwards is undefined. So every shape has its own context; all share one scratch memory,
which is safe because they run on one stream. No engine has been run by it yet: plans are built by the
real library, their execution is tested against a mock (tests/engine/test_trt_runner.py).
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from onnx_export.paths import half_path, plain_path
from train_model.cli import UserError
from train_model.models.signatures import WHOLE
from trt_code.engine.gpu import DeviceBuffer, Event, check, installed_gpus, load_cudart
from trt_code.engine.plan import Engine, Plan, RuntimeOptions
from trt_code.engine.profiles import Shape, best_profile
from trt_code.engine.sidecar import describe_build, graph_metadata, read_sidecar
from trt_code.runners.base import WARM_UP, Output, Runner, Unavailable
from trt_code.runners.pairing import check_file
from trt_code.runners.spec import GRAPH_PRECISIONS, Request, RunnerSpec
from trt_code.runners.timing import device_ms
from trt_code.runners.turns import Turns

MAX_SHAPES = 64
"""Shapes to keep ready. Each needs a context and small buffers; the least recently used is dropped."""

OUTPUTS = tuple(WHOLE.outputs)


def create(request: Request, plain: bool) -> "TrtRunner":
    """Make the runner of ``<build_dir>/<model>/model.<precision>.plan``, or of the plan without plugins.

    Args:
        plain: take the plan without plugins (``find_plan``).

    Raises:
        Unavailable: TensorRT or a GPU is missing, or the plan is missing, stale, foreign or damaged.
    """
    plan = find_plan(request.folder / f"model.{request.precision}.plan", plain)
    with plans_on(request.device, plan, instead="ort"):
        options = RuntimeOptions(request.kernels, request.cuda_graph)
        runner = TrtRunner(plan, request.precision, options, request.name)
    check_plan(plan, request, f"make engine-{request.precision}")
    runner.int8_report = layer_report(plan)
    return runner


def check_plan(plan: Path, request: Request, command: str) -> None:
    """Raise ``Unavailable`` if a plan does not belong to the model (``pairing.check_file``)."""
    sidecar = read_sidecar(plan)
    graph = plan.parent / sidecar.graph.path
    file = graph if graph.is_file() else plan
    check_file(file, graph_metadata(sidecar, plan), request, command)


def find_plan(plan: Path, plain: bool, half: str | None = None) -> Path:
    """Return the plan to run: with plugins if it exists, else without if that exists, else ``plan``.

    Args:
        plan: path of the plan with plugins.
        plain: return the plan without plugins, for a comparison with the other.
        half: if given, look for this half of each plan.

    Raises:
        Unavailable: with ``plain``, there is no plan with plugins, so that both would be the same plan.
    """
    without = plain_path(plan)
    exist = [(half_path(path, half) if half else path).is_file() for path in (plan, without)]
    if plain and exist == [False, True]:
        raise Unavailable(
            f"it would run the same plan as the runner without -plain; there is no {plan} (make plugins, "
            "then the engine again)"
        )
    return without if plain or exist == [False, True] else plan


def layer_report(plan: Path) -> Path:
    """Return the file that ``make engine-int8`` writes for ``plan``: ``model.int8.layers.json``."""
    return plan.with_suffix(".layers.json")


@contextmanager
def plans_on(device: str, plan: Path, instead: str) -> Iterator[None]:
    """Turn a ``UserError`` about a plan within the block into ``Unavailable``.

    Args:
        plan: the plan that the message describes.
        instead: the runner that works without a GPU.

    Raises:
        Unavailable: the plan cannot be used, or ``device`` is not a GPU.
    """
    if device != "cuda":
        built = _describe(plan)
        if built and not installed_gpus():
            raise Unavailable("no GPU here", built)
        raise Unavailable(
            f"TensorRT runs on a GPU only; use --device cuda, or the runner {instead}", built
        )
    try:
        yield
    except UserError as error:
        raise Unavailable(str(error)) from error


def _describe(plan: Path) -> str:
    """Return one line on the plan's build; empty if the plan is missing."""
    try:
        return describe_build(read_sidecar(plan), plan)
    except UserError:
        return ""


class Stream:
    """A new CUDA stream, and the GPU memory allocated since its creation."""

    def __init__(self) -> None:
        self._cudart = load_cudart()
        self._free_at_start = self._least_free = self._free_memory()
        self.handle = check(
            self._cudart.cudaStreamCreateWithFlags(self._cudart.cudaStreamNonBlocking)
        )

    def device_ms(self, work: Callable[[], None], repeats: int) -> list[float]:
        """Return the device time of each of ``repeats`` runs of ``work``, see ``timing.device_ms``."""
        events = Event(self.handle), Event(self.handle)
        try:
            return device_ms(work, repeats, events)
        finally:
            for event in events:
                event.close()

    def look_at_memory(self) -> None:
        """Record the free memory now."""
        self._least_free = min(self._least_free, self._free_memory())

    @property
    def most_memory(self) -> int:
        """Return the peak of allocated device bytes; allocations by other processes count too."""
        return max(0, self._free_at_start - self._least_free)

    def close(self) -> None:
        check(self._cudart.cudaStreamDestroy(self.handle))

    def _free_memory(self) -> int:
        free, _ = check(self._cudart.cudaMemGetInfo())
        return free


class ReadyShapes:
    """A cache of ``ShapeRun`` objects for the most recently used shapes."""

    def __init__(self) -> None:
        self._ready: OrderedDict[Any, ShapeRun] = OrderedDict()

    def get(self, key: Any, make: Callable[[], "ShapeRun"]) -> "ShapeRun":
        """Return the object of this key; make it if it is missing."""
        if key not in self._ready:
            if len(self._ready) == MAX_SHAPES:
                self._ready.popitem(last=False)[1].close()
            self._ready[key] = make()
        self._ready.move_to_end(key)
        return self._ready[key]

    def keys(self) -> list:
        """Return the keys, least recently used first."""
        return list(self._ready)

    def close(self) -> None:
        for shape_run in self._ready.values():
            shape_run.close()
        self._ready.clear()


class TrtRunner(Runner):
    """Runs one plan. See ``Runner`` for shapes and types.

    All shapes share one stream, the scratch memory and the cache, so threads take turns.

    Raises:
        UserError: in the cases in which ``create`` raises ``Unavailable``.
    """

    def __init__(
        self,
        plan: Path,
        precision: str,
        options: RuntimeOptions | None = None,
        name: str = "trt",
    ) -> None:
        super().__init__(name, precision, "cuda")
        opened = Plan.open(plan)
        self._stream = Stream()
        self._engine = Engine(opened, options)
        self.max_source = max(profile.max.length for profile in self._engine.profiles)
        self.max_batch = max(profile.max.batch for profile in self._engine.profiles)
        self._input = _input_name(self._engine)
        self._scratch = DeviceBuffer(self._engine.device_memory)
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
            return self._stream.device_ms(shape_run.launch, repeats)

    def peak_memory(self) -> int:
        """Device bytes taken since the plan was loaded: weights, contexts, scratch, buffers, graphs.

        It is the drop in the GPU's free memory, so allocations by other processes count too.
        """
        return self._stream.most_memory

    def close(self) -> None:
        self._ready.close()
        self._scratch.close()
        self._stream.close()
        self._engine.close()

    def _shape_run(self, src_tokens: np.ndarray) -> "ShapeRun":
        """Return the ``ShapeRun`` of this shape, made at its first use; refuse a shape without a profile."""
        shape = source_shape(src_tokens)

        def make() -> ShapeRun:
            made = ShapeRun(
                self._engine,
                best_profile(self._engine.profiles, shape),
                {self._input: shape},
                OUTPUTS,
                self._scratch,
                self._stream.handle,
            )
            self._stream.look_at_memory()
            return made

        return self._ready.get(shape, make)


def source_shape(src_tokens: np.ndarray) -> Shape:
    """Return the batch and length of ``src_tokens``; raise ``UserError`` for any other array."""
    if src_tokens.ndim != 2 or src_tokens.dtype.kind not in "iu":
        raise UserError(
            f"src_tokens is {src_tokens.dtype} of shape {src_tokens.shape}; "
            "TensorRT takes whole numbers of [batch, length]"
        )
    return Shape(*src_tokens.shape)


class ShapeRun:
    """One set of input shapes: its context, its input and output memory, its CUDA graph.

    Args:
        engine: the engine to run.
        profile: the number of the optimisation profile.
        shapes: the shape of every input, by name.
        outputs: the names of the engine's outputs.
        scratch: device memory that nothing else uses during a run.
        stream: the stream's handle.
        shared: memory of inputs and outputs that belongs to the caller, large enough.
    """

    def __init__(
        self,
        engine: Engine,
        profile: int,
        shapes: Mapping[str, tuple[int, ...]],
        outputs: Sequence[str],
        scratch: DeviceBuffer,
        stream: Any,
        shared: Mapping[str, DeviceBuffer] | None = None,
    ):
        self._cudart = load_cudart()
        self._stream = stream
        self._engine = engine
        context = self._context = engine.make_context(
            profile, shapes, (scratch.pointer, scratch.size), int(stream)
        )
        # shape and type of each tensor on the host
        self._templates = {
            name: np.empty(tuple(context.get_tensor_shape(name)), engine.dtype(name))
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
        self._graph = self._capture() if engine.captures else None

    def run(self, feeds: Mapping[str, np.ndarray], wanted: Sequence[str]) -> list[np.ndarray]:
        """Copy the inputs in, run, and copy the results out; the caller owns the returned arrays."""
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
        """Wait for the results and return copies of ``wanted``."""
        results = [np.empty_like(self._templates[name]) for name in wanted]
        for name, result in zip(wanted, results, strict=True):
            kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
            self._copy(result.ctypes.data, self._buffers[name].pointer, result.nbytes, kind)
        check(self._cudart.cudaStreamSynchronize(self._stream))
        return results

    def launch(self) -> None:
        """Enqueue the network on the current content of the input memory."""
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
        self._engine.enqueue(self._context, int(self._stream))

    def _capture(self) -> Any:
        """Return the instantiated graph of one pass, or None, with one message, if the capture fails.

        A pass before the capture keeps the one-time work of TensorRT and the plugins out of the graph.
        """
        cudart = self._cudart
        self._enqueue()
        check(cudart.cudaStreamSynchronize(self._stream))
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(cudart.cudaStreamBeginCapture(self._stream, mode))
        enqueued = self._context.execute_async_v3(int(self._stream))
        status, graph = cudart.cudaStreamEndCapture(self._stream)
        if not enqueued or status != cudart.cudaError_t.cudaSuccess:
            cudart.cudaGetLastError()  # clear the error of the failed capture
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


def _input_name(engine: Engine) -> str:
    """Return the name of the engine's only input, after a check of its outputs."""
    if len(engine.inputs) != 1 or set(engine.outputs) != set(OUTPUTS):
        raise UserError(
            f"{engine.plan.path} has the tensors {', '.join([*engine.inputs, *engine.outputs])}; this runner "
            f"takes one input and gives {' and '.join(OUTPUTS)}"
        )
    return engine.inputs[0]


RUNNERS = tuple(
    RunnerSpec(
        name,
        create,
        {"cuda": GRAPH_PRECISIONS},
        reads="engine",
        options={"plain": name.endswith("-plain")},
    )
    for name in ("trt", "trt-plain")
)
