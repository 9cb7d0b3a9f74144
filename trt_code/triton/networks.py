"""The networks that can be served as ``lite_network``: a TensorRT plan, or ONNX files."""

import abc
import re
import shutil
from pathlib import Path

from onnx_export.onnx_file import read_graph
from onnx_export.paths import half_path
from train_model.cli import UserError
from train_model.models.signatures import WHOLE
from trt_code.engine.graph_files import GraphFiles, read_graph_files
from trt_code.engine.profiles import Shape
from trt_code.engine.sidecar import graph_metadata, plugin_paths, read_sidecar, stale_reason
from trt_code.triton.modules import LOOP_MODULES, copy_modules

UPSTREAM_PADDING = "upstream"
_LIBRARY = re.compile(r"[\w.-]+\.so", re.ASCII)


class Network(abc.ABC):
    """A network's files and limits.

    Attributes:
        path: the plan or the graph.
        metadata: the graph's metadata; empty if it is not known.
        profiles: optimisation profiles of a plan; 0 for ONNX Runtime.
        longest: source tokens it takes.
        max_batch: the largest number of sentences that Triton should batch.
        padding_policy: of the model (doc/model.md); None if its files do not say.
        options: options for tritonserver's command line; ``$here`` is the repository.
        form: what it is, for the user.
    """

    path: Path
    metadata: dict[str, str]
    profiles: int
    longest: int
    max_batch: int
    padding_policy: str | None
    options: str
    form: str

    @abc.abstractmethod
    def accepts(self, shape: Shape) -> bool:
        """Return whether the network can run a batch of this shape."""

    @abc.abstractmethod
    def copy_to(self, version: Path, plugins: Path) -> None:
        """Copy the network into its version folder, and its plugins into theirs."""


class OnnxNetwork(Network):
    """``model.onnx`` in ONNX Runtime on the CPU. ``longest`` is the model's number of positions.

    Raises:
        UserError: the file is missing, is of another network, or ``make onnx`` did not write it.
    """

    profiles = 0
    max_batch = 16  # a CPU gains little from more, and all sentences wait for the slowest
    options = ""
    form = "ONNX file on the CPU"
    is_whole = True  # it gives the translation, and no other run is needed

    def __init__(self, path: Path):
        self._graph = read_graph_files(path)
        if self.is_whole != ([*self._graph.axes] == [*WHOLE.inputs]):
            raise UserError(f"{path} is a graph of another network; make it with `make onnx`")
        self.path, self.metadata = path, self._graph.metadata
        if "max_source_positions" not in self._graph.metadata:
            raise UserError(f"{path} has no max_source_positions; write it with `make onnx`")
        self.longest = self._graph.positions
        self.padding_policy = self._graph.metadata.get("padding_policy")

    def accepts(self, shape: Shape) -> bool:
        return shape.length <= self.longest

    def copy_to(self, version: Path, plugins: Path) -> None:
        _copy_graph(self._graph, version / "model.onnx")


class LoopNetwork(OnnxNetwork):
    """``model.onnx``, a step or a pass of a network that needs several, and ``model.encoder.onnx``.

    Triton's Python backend runs them (``several_runs.py``).
    """

    form = "ONNX files on the CPU, run by Python"
    is_whole = False

    def __init__(self, path: Path):
        super().__init__(path)
        self._encoder = read_graph_files(half_path(path, "encoder"))
        for graph in (self._graph, self._encoder):
            read_graph(graph.path)  # the server opens them without this look

    def copy_to(self, version: Path, plugins: Path) -> None:
        super().copy_to(version, plugins)
        _copy_graph(self._encoder, half_path(version / "model.onnx", "encoder"))
        shutil.copy(Path(__file__).with_name("several_runs.py"), version / "model.py")
        copy_modules(LOOP_MODULES, version)


def _copy_graph(graph: GraphFiles, target: Path) -> None:
    shutil.copy(graph.path, target)
    for weights in graph.weights:
        shutil.copy(weights, target.with_name(weights.name))


class PlanNetwork(Network):
    """A plan of ``trt_code.build_engine`` with its plugins.

    Triton's TensorRT backend opens plugin libraries and expects them to register themselves; ours are
    registered by the library's name, so that a process decides when. ``*_loader.so`` (plugin_loader.cpp)
    is opened instead and does it.

    Raises:
        UserError: the plan is missing or stale, or the loader is not built.
    """

    form = "TensorRT plan"

    def __init__(self, plan: Path):
        self._plan = self.path = plan
        self._sidecar = read_sidecar(plan)
        if reason := stale_reason(self._sidecar, plan):
            raise UserError(f"{plan} {reason}; build it again: {self._sidecar.command}")
        self.profiles = len(self._sidecar.profiles)
        self.longest = max(profile.max.length for profile in self._sidecar.profiles)
        self.max_batch = max(profile.max.batch for profile in self._sidecar.profiles)
        self.metadata = graph_metadata(self._sidecar, plan)
        self.padding_policy = self.metadata.get("padding_policy")
        self._plugins = plugin_paths(self._sidecar, plan)
        self._loaders = [path.with_name(f"{path.stem}_loader.so") for path in self._plugins]
        for library in (*self._plugins, *self._loaders):
            if not _LIBRARY.fullmatch(library.name):  # it becomes part of a shell's command
                raise UserError(
                    f"the plugins of {plan} are in a file {library.name!r}; only letters, digits and ._- may "
                    "be in its name: build the plugins and the engine again"
                )
        for loader in self._loaders:
            if not loader.is_file():
                raise UserError(f"no {loader}, which registers the plugins; run `make plugins`")
        libraries = ";".join(f"$here/plugins/{loader.name}" for loader in self._loaders)
        self.options = f' --backend-config="tensorrt,plugins={libraries}"' if libraries else ""
        if self._sidecar.version_compatible:
            self.options += " --backend-config=tensorrt,version-compatible=true"

    def accepts(self, shape: Shape) -> bool:
        return any(profile.accepts(shape) for profile in self._sidecar.profiles)

    def copy_to(self, version: Path, plugins: Path) -> None:
        shutil.copy(self._plan, version / "model.plan")
        plugins.mkdir()
        for library in (*self._plugins, *self._loaders):
            shutil.copy(library, plugins / library.name)
