"""A mock of the part of ``cuda.bindings.runtime`` that the engine code uses. No GPU is involved.

Device memory is host memory that only this module's copies may access. Work on a stream runs immediately,
except during a capture, which records it for ``cudaGraphLaunch``. Names and the order of arguments are
cuda-python's (``test_engine_bindings.py`` compares them with the package).
"""

import ctypes
import enum
from collections.abc import Callable
from types import SimpleNamespace

TOTAL_MEMORY = 1 << 30


cudaError_t = enum.IntEnum(
    "cudaError_t",
    {
        "cudaSuccess": 0,
        "cudaErrorMemoryAllocation": 2,
        "cudaErrorStreamCaptureInvalidated": 901,
    },
)
cudaMemcpyKind = enum.IntEnum(
    "cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2}
)
cudaStreamCaptureMode = enum.IntEnum(
    "cudaStreamCaptureMode", {"cudaStreamCaptureModeThreadLocal": 1}
)
cudaStreamNonBlocking = 1
_OK = cudaError_t.cudaSuccess


class MockCudart:
    """One simulated GPU. Tests read its counters."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = cudaStreamNonBlocking

    def __init__(self, name: str = "Mock GPU", capability: tuple[int, int] = (9, 0)):
        self.name, self.capability = name, capability
        self.memory: dict[int, ctypes.Array] = {}
        self.launches = 0
        self.live_graphs = 0
        self.refuse_capture = False
        self._recording: list[Callable[[], None]] | None = None
        self._streams = 0
        self._clock = 0.0

    # called by the mocked TensorRT
    def enqueue(self, work: Callable[[], None]) -> None:
        if self._recording is None:
            work()
        else:
            self._recording.append(work)

    @property
    def capturing(self) -> bool:
        return self._recording is not None

    # cuda.bindings.runtime
    def cudaGetDevice(self):
        return _OK, 0

    def cudaGetDeviceProperties(self, device):
        major, minor = self.capability
        return _OK, SimpleNamespace(name=self.name.encode() + b"\0" * 8, major=major, minor=minor)

    def cudaMemGetInfo(self):
        return _OK, TOTAL_MEMORY - sum(map(len, self.memory.values())), TOTAL_MEMORY

    def cudaMalloc(self, size):
        if size > TOTAL_MEMORY:
            return cudaError_t.cudaErrorMemoryAllocation, None
        block = (ctypes.c_char * size)()
        self.memory[ctypes.addressof(block)] = block
        return _OK, ctypes.addressof(block)

    def cudaFree(self, devPtr):
        del self.memory[devPtr]
        return (_OK,)

    def cudaMemsetAsync(self, devPtr, value, count, stream):
        self._device_range(devPtr, count)
        ctypes.memset(devPtr, value, count)
        return (_OK,)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        to_device = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
        self._device_range(dst if to_device else src, count)
        ctypes.memmove(dst, src, count)
        return (_OK,)

    def cudaStreamCreateWithFlags(self, flags):
        self._streams += 1
        return _OK, self._streams

    def cudaStreamDestroy(self, stream):
        self._streams -= 1
        return (_OK,)

    def cudaStreamSynchronize(self, stream):
        assert not self.capturing, "a synchronisation ends a capture"
        return (_OK,)

    def cudaStreamBeginCapture(self, stream, mode):
        self._recording = []
        return (_OK,)

    def cudaStreamEndCapture(self, stream):
        recorded, self._recording = self._recording, None
        if self.refuse_capture:
            return cudaError_t.cudaErrorStreamCaptureInvalidated, None
        return _OK, recorded

    def cudaGraphInstantiate(self, graph, flags):
        self.live_graphs += 1
        return _OK, list(graph)

    def cudaGraphDestroy(self, graph):
        graph.clear()
        return (_OK,)

    def cudaGraphLaunch(self, graphExec, stream):
        self.launches += 1
        for work in graphExec:
            work()
        return (_OK,)

    def cudaGraphExecDestroy(self, graphExec):
        self.live_graphs -= 1
        return (_OK,)

    def cudaEventCreate(self):
        return _OK, SimpleNamespace(at=None)

    def cudaEventRecord(self, event, stream):
        self._clock += 1.5
        event.at = self._clock
        return (_OK,)

    def cudaEventSynchronize(self, event):
        return (_OK,)

    def cudaEventElapsedTime(self, start, end):
        return _OK, end.at - start.at

    def cudaEventDestroy(self, event):
        return (_OK,)

    def cudaGetLastError(self):
        return (_OK,)

    def _device_range(self, pointer, count):
        inside = any(
            base <= pointer and pointer + count <= base + len(block)
            for base, block in self.memory.items()
        )
        assert inside, f"{count} bytes at {pointer:#x} are not device memory"
