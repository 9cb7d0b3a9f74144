"""The TensorRT runner: a plan built by ``trt_code.build_engine``, one CUDA graph a shape.

A captured graph is bound to the execution context it was captured from, and changing that context's
shape afterwards is undefined. So every shape has its own context; all share one scratch memory,
which is safe because they run on one stream. Written against TensorRT's documentation and bindings:
until a machine with TensorRT has run it, only its control flow is proven (tests/test_trt_runner.py).
"""

import warnings
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from train_model.cli import UserError
from trt_code.engine.gpu import DeviceBuffer, check, current_gpu, load_cudart
from trt_code.engine.plugin_library import load_plugins
from trt_code.engine.profiles import Shape, best_profile
from trt_code.engine.sidecar import check_sidecar, plugin_paths, read_sidecar
from trt_code.engine.tensorrt_api import deserialize, load_tensorrt, process_logger
from trt_code.runners.base import WARM_UP, Output, Runner, Unavailable

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
    if device != "cuda":
        raise Unavailable("TensorRT runs on a GPU only; use --device cuda, or the runner ort")
    plan = Path(build_dir) / model_files.name / f"model.{precision}.plan"
    try:
        return TrtRunner(plan, precision)
    except UserError as error:
        raise Unavailable(str(error)) from error


class TrtRunner(Runner):
    """Runs one plan. See ``Runner`` for shapes and types.

    Raises:
        UserError: as ``create``'s Unavailable.
    """

    def __init__(self, plan: Path, precision: str):
        super().__init__("trt", precision, "cuda")
        sidecar = read_sidecar(plan)
        trt = load_tensorrt()
        check_sidecar(sidecar, plan, trt, current_gpu())
        for library in plugin_paths(sidecar, plan):
            load_plugins(trt, library)
        self._cudart = load_cudart()
        self._profiles = sidecar.profiles
        self.max_source = max(profile.max.length for profile in self._profiles)
        self.max_batch = max(profile.max.batch for profile in self._profiles)
        self._free_at_start = self._least_free = self._free_memory()
        self._engine = deserialize(trt, plan.read_bytes(), f"{plan}; build it: {sidecar.command}")
        self._trt = trt
        self._input = _input_name(trt, self._engine, plan)
        self._scratch = DeviceBuffer(self._engine.device_memory_size_v2)
        self._stream = check(
            self._cudart.cudaStreamCreateWithFlags(self._cudart.cudaStreamNonBlocking)
        )
        self._ready: OrderedDict[Shape, _ShapeRun] = OrderedDict()

    def run(self, src_tokens: np.ndarray) -> Output:
        tokens, scores = self._shape_run(src_tokens).run(src_tokens)
        return Output(tokens.astype(np.int64), scores.astype(np.float32))

    def _device_ms(self, src_tokens: np.ndarray, repeats: int) -> list[float]:
        shape_run = self._shape_run(src_tokens)
        shape_run.run(src_tokens)
        for _ in range(WARM_UP):
            shape_run.launch()
        return [self._event_ms(shape_run) for _ in range(repeats)]

    def _event_ms(self, shape_run: "_ShapeRun") -> float:
        start, end = (check(self._cudart.cudaEventCreate()) for _ in range(2))
        check(self._cudart.cudaEventRecord(start, self._stream))
        shape_run.launch()
        check(self._cudart.cudaEventRecord(end, self._stream))
        check(self._cudart.cudaEventSynchronize(end))
        milliseconds = check(self._cudart.cudaEventElapsedTime(start, end))
        for event in (start, end):
            check(self._cudart.cudaEventDestroy(event))
        return milliseconds

    def peak_memory(self) -> int:
        """Device bytes taken since the plan was loaded: weights, contexts, scratch, buffers, graphs.

        It is the drop in the GPU's free memory, so what other processes take meanwhile counts too.
        """
        return max(0, self._free_at_start - self._least_free)

    def close(self) -> None:
        for shape_run in self._ready.values():
            shape_run.close()
        self._ready.clear()
        self._scratch.close()
        check(self._cudart.cudaStreamDestroy(self._stream))
        self._engine = None

    def _shape_run(self, src_tokens: np.ndarray) -> "_ShapeRun":
        """Return what runs this shape, made at its first use; refuse what no profile accepts."""
        if src_tokens.ndim != 2 or src_tokens.dtype.kind not in "iu":
            raise UserError(
                f"src_tokens is {src_tokens.dtype} of shape {src_tokens.shape}; "
                "TensorRT takes whole numbers of [batch, length]"
            )
        shape = Shape(*src_tokens.shape)
        if shape not in self._ready:
            profile = best_profile(self._profiles, shape)
            if len(self._ready) == MAX_SHAPES:
                self._ready.popitem(last=False)[1].close()
            self._ready[shape] = _ShapeRun(
                self._trt, self._engine, self._input, profile, shape, self._scratch, self._stream
            )
            self._least_free = min(self._least_free, self._free_memory())
        self._ready.move_to_end(shape)
        return self._ready[shape]

    def _free_memory(self) -> int:
        free, _ = check(self._cudart.cudaMemGetInfo())
        return free


class _ShapeRun:
    """One input shape: its context, its input and output memory, its CUDA graph."""

    def __init__(
        self,
        trt: ModuleType,
        engine: Any,
        input_name: str,
        profile: int,
        shape: Shape,
        scratch: DeviceBuffer,
        stream: Any,
    ):
        self._cudart = load_cudart()
        self._stream = stream
        self._context = engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        context = self._context
        if context is None or not context.set_optimization_profile_async(profile, int(stream)):
            raise UserError(
                f"TensorRT cannot make a context for {shape}; see `nvidia-smi` for memory"
            )
        check(self._cudart.cudaStreamSynchronize(stream))
        context.set_device_memory(scratch.pointer, scratch.size)
        if not context.set_input_shape(input_name, tuple(shape)) or context.infer_shapes():
            raise UserError(f"TensorRT refuses the input shape {shape}")
        self._input_dtype = trt.nptype(engine.get_tensor_dtype(input_name))
        self._results = {  # what comes back for each output: shape and type
            name: np.empty(
                tuple(context.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name))
            )
            for name in OUTPUTS
        }
        self._input = DeviceBuffer(np.empty(shape, self._input_dtype).nbytes)
        self._outputs = {
            name: DeviceBuffer(result.nbytes) for name, result in self._results.items()
        }
        context.set_tensor_address(input_name, self._input.pointer)
        for name, buffer in self._outputs.items():
            context.set_tensor_address(name, buffer.pointer)
        check(self._cudart.cudaMemsetAsync(self._input.pointer, 0, self._input.size, stream))
        self._graph = self._capture()

    def run(self, src_tokens: np.ndarray) -> list[np.ndarray]:
        """Copy in, run, copy out; the arrays are the caller's."""
        kinds = self._cudart.cudaMemcpyKind
        source = np.ascontiguousarray(src_tokens, self._input_dtype)
        self._copy(
            self._input.pointer, source.ctypes.data, source.nbytes, kinds.cudaMemcpyHostToDevice
        )
        self.launch()
        results = [np.empty_like(self._results[name]) for name in OUTPUTS]
        for name, result in zip(OUTPUTS, results, strict=True):
            self._copy(
                result.ctypes.data,
                self._outputs[name].pointer,
                result.nbytes,
                kinds.cudaMemcpyDeviceToHost,
            )
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
        for buffer in (self._input, *self._outputs.values()):
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
