"""A mock of the part of TensorRT's Python API that the engine code uses. No engine is built or run.

It exercises the control flow around TensorRT: the builder's settings, refusals, and the shapes, addresses and
types that reach the execution context. A "plan" is JSON. "Running" it calls ``mock_network`` unless a test
replaces it: tokens [src, src], scores batch * 1000 + length. ``test_engine_bindings.py`` compares every
class, member and argument name here with NVIDIA's bindings of 10.16 and 11.4, so the mock has no names
that TensorRT lacks.
"""

import ctypes
import enum
import json
import math
import sys
import time
from importlib.machinery import ModuleSpec

import numpy as np
import onnx

from trt_code.engine import plugin_library, tensorrt_api
from trt_code.tests.engine.mock_cudart import MockCudart


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 0  # as in 11.x; 1 in 10.x


BuilderFlag = enum.Enum("BuilderFlag", {"TF32": 0, "VERSION_COMPATIBLE": 1})
MemoryPoolType = enum.Enum("MemoryPoolType", {"WORKSPACE": 0})
HardwareCompatibilityLevel = enum.Enum(
    "HardwareCompatibilityLevel", {"NONE": 0, "AMPERE_PLUS": 1, "SAME_COMPUTE_CAPABILITY": 2}
)
ProfilingVerbosity = enum.Enum("ProfilingVerbosity", {"LAYER_NAMES_ONLY": 0, "DETAILED": 1})
LayerInformationFormat = enum.Enum("LayerInformationFormat", {"JSON": 1})
ExecutionContextAllocationStrategy = enum.Enum(
    "ExecutionContextAllocationStrategy", {"USER_MANAGED": 2}
)

# These three are only in TensorRT for RTX.
ComputeCapability = enum.Enum("ComputeCapability", {"SM75": 75, "SM86": 86, "SM120": 120})
CudaGraphStrategy = enum.Enum("CudaGraphStrategy", {"DISABLED": 0, "WHOLE_GRAPH_CAPTURE": 1})
DynamicShapesKernelSpecializationStrategy = enum.Enum(
    "DynamicShapesKernelSpecializationStrategy", {"LAZY": 0, "EAGER": 1, "NONE": 2}
)


class IRuntimeCache:
    """Holds one line per context that was created with it."""

    def __init__(self, trt):
        self._trt, self._lines = trt, []

    def deserialize(self, blob):
        if not bytes(blob).startswith(b"kernels of"):
            return False
        self._lines = bytes(blob).split(b"\n")[1:]
        return True

    def serialize(self):
        return b"\n".join([b"kernels of " + self._trt.cudart.name.encode(), *self._lines])


class IRuntimeConfig:
    def __init__(self, trt):
        self._trt, self._cache, self._strategy = trt, None, None
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = (
            DynamicShapesKernelSpecializationStrategy.LAZY
        )

    def create_runtime_cache(self):
        return IRuntimeCache(self._trt)

    def set_runtime_cache(self, cache):
        self._cache = cache
        return True

    def set_execution_context_allocation_strategy(self, strategy):
        self._strategy = strategy


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class DataType(enum.Enum):
    BOOL = 4
    INT32 = 3
    INT64 = 8
    FLOAT = 0


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3


class ILogger:
    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO

    def log(self, severity, msg):
        raise NotImplementedError


class IProgressMonitor:
    def phase_start(self, phase_name, parent_phase, num_steps):
        raise NotImplementedError

    def step_complete(self, phase_name, step):
        raise NotImplementedError

    def phase_finish(self, phase_name):
        raise NotImplementedError


class NoMonitor:
    def phase_start(self, phase_name, parent_phase, num_steps):
        pass

    def step_complete(self, phase_name, step):
        return True

    def phase_finish(self, phase_name):
        pass


class ITensor:
    def __init__(self, value: onnx.ValueInfoProto):
        self.name = value.name
        kind = value.type.tensor_type
        self._dims = [
            d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim
        ]
        self._type = onnx.TensorProto.DataType.Name(kind.elem_type)
        self.shape = [-1 if isinstance(size, str) else size for size in self._dims]


class INetworkDefinition:
    def __init__(self):
        self._inputs = []

    @property
    def num_inputs(self):
        return len(self._inputs)

    def get_input(self, index):
        return self._inputs[index]


class ParserError:
    def __init__(self, node, node_name, operator, desc):
        self._all = node, node_name, operator, desc

    def node(self):
        return self._all[0]

    def node_name(self):
        return self._all[1]

    def node_operator(self):
        return self._all[2]

    def desc(self):
        return self._all[3]


class IOptimizationProfile:
    def __init__(self):
        self._shapes = {}

    def set_shape(self, input, min, opt, max):
        self._shapes[input] = [list(min), list(opt), list(max)]


class ITimingCache:
    def __init__(self, data):
        self._data = bytes(data)

    def serialize(self):
        return self._data + b"t"


class IBuilderConfig:
    def __init__(self, trt):
        self._trt = trt
        self._flags = {BuilderFlag.TF32}
        self._pools = {}
        self._profiles = []
        self._cache = None
        self._capabilities = []
        self.num_compute_capabilities = 0
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.progress_monitor = None

    def set_flag(self, flag):
        self._flags.add(flag)

    def clear_flag(self, flag):
        self._flags.discard(flag)

    def set_memory_pool_limit(self, pool, pool_size):
        self._pools[pool.name] = pool_size

    def add_optimization_profile(self, profile):
        if self._trt.refuse_profile:
            self._trt.logger.log(ILogger.ERROR, "kMAX of dimension 1\n is odd")
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_compute_capability(self, compute_capability, index):
        assert self._trt.is_rtx
        assert index < self.num_compute_capabilities
        self._capabilities.append(compute_capability)
        return True

    def create_timing_cache(self, serialized_timing_cache):
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        if cache._data.startswith(b"foreign"):
            self._trt.logger.log(ILogger.ERROR, "the cache is of another device")
            return False
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache


class IPluginRegistry:
    def __init__(self, trt):
        self._trt = trt
        self._loaded = []

    def load_library(self, plugin_path):
        with open(plugin_path, "rb") as file:
            if file.read(4) != b"\x7fELF" or plugin_path in self._loaded:
                self._trt.logger.log(ILogger.ERROR, f"{plugin_path}: invalid ELF header")
                return None
        self._loaded.append(plugin_path)
        return object()


class EngineInspector:
    def __init__(self, engine):
        self._engine = engine

    def get_engine_information(self, format):
        return json.dumps({"Layers": [self._engine._plan["verbosity"]]})


class IExecutionContext:
    def __init__(self, trt, engine):
        self._trt, self._engine = trt, engine
        self._profile = None
        self._memory = None
        self._shapes = {}
        self._addresses = {}

    def set_optimization_profile_async(self, profile_index, stream_handle):
        self._profile = profile_index
        return True

    def set_device_memory(self, memory, size):
        assert memory in self._trt.cudart.memory
        self._memory = (memory, size)

    def set_input_shape(self, name, shape):
        if name in self._engine._plan["profiles"][self._profile]:
            low, _, high = self._engine._plan["profiles"][self._profile][name]
            assert all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        else:
            assert shape == self._engine.get_tensor_shape(name)
        self._shapes[name] = shape
        return True

    def infer_shapes(self):
        return [name for name in self._engine._inputs if name not in self._shapes]

    def get_tensor_shape(self, name):
        sizes = {}
        for given, shape in self._shapes.items():
            dims = self._engine._tensors[given][1]
            for dim, size in zip(dims, shape, strict=True):
                assert sizes.setdefault(dim, size) == size, f"{dim} is {sizes[dim]} and {size}"
        if "canvas" not in sizes:
            sizes["canvas"] = 2 * next(iter(self._shapes.values()))[-1]
        return tuple(
            math.prod(sizes[part] for part in dim.split("*")) if isinstance(dim, str) else dim
            for dim in self._engine._tensors[name][1]
        )

    def set_tensor_address(self, name, memory):
        assert memory in self._trt.cudart.memory
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        assert self._memory[1] >= self._engine.device_memory_size_v2
        assert self._addresses.keys() == self._engine._tensors.keys()
        if self._trt.refuse_execution:
            self._trt.logger.log(ILogger.ERROR, "enqueue failed")
            return False
        self._trt.enqueue(self, stream_handle)
        return True

    def _array(self, name):
        """Return the array at a tensor's address, if that is host memory."""
        shape = self.get_tensor_shape(name)
        dtype = np.dtype(nptype(self._engine.get_tensor_dtype(name)))
        size = int(np.prod(shape)) * dtype.itemsize
        block = (ctypes.c_char * size).from_address(self._addresses[name])
        return np.frombuffer(block, dtype).reshape(shape)


def mock_network(context: IExecutionContext) -> None:
    """Read the inputs and write the outputs at the context's addresses.

    For halves, the encoder returns the source's lengths and the source itself. The decoder writes the
    sentence's first word at every unk of the canvas, and the width of the canvas as scores.
    """
    given = {name: context._array(name) for name in context._engine._tensors}
    source = given["src_tokens"]
    if "lengths" in given:
        given["encoded"][:] = source[..., None]
        given["lengths"][:] = (source != 1).sum(1)
    elif "canvas" in given:
        canvas = given["canvas"]
        word = given["encoded"][:, 1:2, 0].astype(np.int64)
        given["output_tokens"][:] = np.where(canvas == 3, word, canvas)
        given["output_scores"][:] = np.where(canvas == 1, 0, canvas.shape[1])
    else:
        given["output_tokens"][:] = np.concatenate([source, source], 1)
        given["output_scores"][:] = source.shape[0] * 1000 + source.shape[1]


def slowly(enqueue):
    """An ``enqueue`` that lets other threads run before its network does."""

    def slow(context, stream_handle):
        time.sleep(1e-3)
        enqueue(context, stream_handle)

    return slow


class ICudaEngine:
    device_memory_size_v2 = 4096

    def __init__(self, trt, plan):
        self._trt, self._plan = trt, plan
        self._inputs = list(plan["inputs"])
        self._tensors = plan["inputs"] | plan["outputs"]  # name to type and axes
        self._names = list(self._tensors)
        self.num_io_tensors = len(self._names)

    def get_tensor_name(self, index):
        return self._names[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType[self._tensors[name][0]]

    def get_tensor_shape(self, name):
        return tuple(-1 if isinstance(dim, str) else dim for dim in self._tensors[name][1])

    def create_runtime_config(self):
        assert self._trt.is_rtx
        return IRuntimeConfig(self._trt)

    def create_execution_context(self, strategy=None, runtime_config=None):
        self._trt.context_settings.append(strategy or runtime_config)
        if self._trt.is_rtx:
            strategy = runtime_config._strategy
            runtime_config._cache._lines.append(b"kernel")
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        return IExecutionContext(self._trt, self)

    def create_engine_inspector(self):
        return EngineInspector(self)


def nptype(trt_type):
    types = {"BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64, "FLOAT": np.float32}
    return types[trt_type.name]


class MockTensorRT:
    """The module of ``import tensorrt``, or of ``import tensorrt_rtx`` for a version that starts with 1.

    Tests set its switches and read its configuration.
    """

    NetworkDefinitionCreationFlag = NetworkDefinitionCreationFlag
    BuilderFlag = BuilderFlag
    MemoryPoolType = MemoryPoolType
    HardwareCompatibilityLevel = HardwareCompatibilityLevel
    ProfilingVerbosity = ProfilingVerbosity
    LayerInformationFormat = LayerInformationFormat
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    TensorIOMode = TensorIOMode
    ILogger = ILogger
    IProgressMonitor = IProgressMonitor
    ComputeCapability = ComputeCapability
    CudaGraphStrategy = CudaGraphStrategy
    DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy
    nptype = staticmethod(nptype)

    def __init__(self, cudart, version: str = "11.4.0.106"):
        self.__version__ = version
        self.is_rtx = version.startswith("1.")
        self.__name__ = "tensorrt_rtx" if self.is_rtx else "tensorrt"
        self.__spec__ = ModuleSpec(self.__name__, None)  # find_spec finds it
        self.context_settings = []
        self.cudart = cudart
        self.logger = None
        self.registry = IPluginRegistry(self)
        self.parser_errors: list[ParserError] = []
        self.refuse_profile = self.refuse_build = self.refuse_execution = False
        self.built_config: IBuilderConfig | None = None
        self.creation_flags: int | None = None
        # How the "network" gets onto a stream; the GPU tests put real work there instead.
        self.enqueue = lambda context, stream: cudart.enqueue(lambda: mock_network(context))
        trt = self

        class Builder:
            def __init__(self, logger):
                trt.logger = logger

            def create_network(self, flags):
                trt.creation_flags = flags
                return INetworkDefinition()

            def create_builder_config(self):
                return IBuilderConfig(trt)

            def create_optimization_profile(self):
                return IOptimizationProfile()

            def build_serialized_network(self, network, config):
                trt.built_config = config
                monitor = config.progress_monitor or NoMonitor()
                monitor.phase_start("Building Engine", None, 2)
                monitor.phase_start("Timing", "Building Engine", 5)
                assert monitor.step_complete("Timing", 0)
                monitor.phase_finish("Timing")
                monitor.phase_finish("Building Engine")
                if trt.refuse_build:
                    trt.logger.log(ILogger.ERROR, "no implementation for\nnode conv")
                    return None
                return json.dumps(
                    {
                        "profiles": [profile._shapes for profile in config._profiles],
                        "inputs": {t.name: (t._type, t._dims) for t in network._inputs},
                        "outputs": {t.name: (t._type, t._dims) for t in network._outputs},
                        "verbosity": config.profiling_verbosity.name,
                    }
                ).encode()

        class OnnxParser:
            def __init__(self, network, logger):
                self._network = network

            def parse_from_file(self, model):
                graph = onnx.load(model).graph
                self._network._inputs = [ITensor(value) for value in graph.input]
                self._network._outputs = [ITensor(value) for value in graph.output]
                return not trt.parser_errors

            @property
            def num_errors(self):
                return len(trt.parser_errors)

            def get_error(self, index):
                return trt.parser_errors[index]

        class Runtime:
            engine_host_code_allowed = False

            def __init__(self, logger):
                trt.logger = logger

            def deserialize_cuda_engine(self, serialized_engine):
                try:
                    return ICudaEngine(trt, json.loads(bytes(serialized_engine)))
                except ValueError:
                    trt.logger.log(ILogger.ERROR, "Serialization assertion\nmagicTag failed")
                    return None

        self.Builder, self.OnnxParser, self.Runtime = Builder, OnnxParser, Runtime

    def get_plugin_registry(self):
        return self.registry


def mocked_classes(trt: MockTensorRT) -> dict[str, type]:
    """Return every mocked class by TensorRT's name."""
    module = {
        k: v for k, v in globals().items() if isinstance(v, type) and v.__module__ == __name__
    }
    mine = {"MockTensorRT", "NoMonitor", "Severity"}
    nested = {"Builder": trt.Builder, "OnnxParser": trt.OnnxParser, "Runtime": trt.Runtime}
    return {name: value for name, value in (module | nested).items() if name not in mine}


# Names that only TensorRT for RTX has.
RTX_ONLY = frozenset(
    (
        "ComputeCapability",
        "CudaGraphStrategy",
        "DynamicShapesKernelSpecializationStrategy",
        "IBuilderConfig.num_compute_capabilities",
        "IBuilderConfig.set_compute_capability",
        "ICudaEngine.create_runtime_config",
        "IRuntimeCache",
        "IRuntimeConfig",
    )
)


def install(monkeypatch, cudart=None, version: str = "11.4.0.106") -> MockTensorRT:
    """Make one test use a mock of this version of TensorRT, and of the CUDA runtime unless given.

    The other TensorRT family seems not to be installed.
    """
    trt = MockTensorRT(cudart or MockCudart(), version)
    for family in tensorrt_api.FAMILIES.values():
        mocked = trt if family.module == trt.__name__ else None
        monkeypatch.setitem(sys.modules, family.module, mocked)
    monkeypatch.setenv("TENSORRT", tensorrt_api.family_of(trt).name)
    monkeypatch.setattr(tensorrt_api, "preload_alias", lambda *names: None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", trt.cudart)
    monkeypatch.setattr(plugin_library, "_loaded", {})
    tensorrt_api.process_logger.cache_clear()
    return trt
