"""The JSON file of a plan: records its inputs, tools and GPU, and checks that they still match.

TensorRT answers a foreign plan with a log line and a null pointer. It cannot know that the graph or the
plugins have changed since the build. So every plan has a file ``<plan>.json``, and a plan without it is
refused.
"""

import dataclasses
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from train_model.cli import UserError, atomic_path
from train_model.data.files import sha256_of
from train_model.documents import read_json, used
from trt_code.engine.gpu import Gpu
from trt_code.engine.graph_files import GraphFiles, read_graph_files
from trt_code.engine.profiles import Profile, Range, Shape
from trt_code.engine.tensorrt_api import FAMILIES, RTX, Family, version_tuple

FORMAT = 2


@dataclass(frozen=True)
class SourceFile:
    """A file that the plan depends on: its path relative to the plan's folder, and its hash."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Sidecar:
    """The conditions under which a plan may run, and the command that builds it again.

    Attributes:
        family: name of the family of TensorRT that built it.
        tensorrt: that TensorRT's version.
        gpu: the GPU it was built on; None for TensorRT for RTX, which builds without one.
        compute_capabilities: what a plan of TensorRT for RTX runs on, such as "8.6" or "12.x"; empty
            for the full TensorRT.
        metadata: the graph's; empty in a file of an older version.
    """

    family: str
    tensorrt: str
    gpu: Gpu | None
    compute_capabilities: tuple[str, ...]
    graph: SourceFile
    plugins: tuple[SourceFile, ...]
    profiles: tuple[Profile, ...]
    tf32: bool
    version_compatible: bool
    hardware_compatible: str  # "none", "ampere-plus" or "same-compute-capability"
    plan_sha256: str
    build_seconds: float
    command: str
    ranges: dict[str, Range] = dataclasses.field(default_factory=dict)  # of axes not in profiles
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    format: int = FORMAT


LONGEST_BUILD = 1e7  # seconds
# The operating system refuses longer names with unclear errors.
LONGEST_PATH = 255
LARGEST_SIZE = 1 << 16


def sidecar_path(plan: Path) -> Path:
    """``model.fp16.plan`` -> ``model.fp16.plan.json``."""
    return plan.parent / f"{plan.name}.json"


def describe_graph(graph: GraphFiles, plan: Path) -> SourceFile:
    """Return the description of the graph that ``plan`` is built from."""
    return SourceFile(_relative(graph.path, plan), graph.sha256())


def describe_plugins(library: Path, plan: Path) -> SourceFile:
    """Describe a plugin library that ``plan`` needs."""
    return SourceFile(_relative(library, plan), sha256_of(library))


def graph_metadata(sidecar: Sidecar, plan: Path) -> dict[str, str]:
    """Return the metadata of the plan's graph; empty if neither the JSON nor the graph has it."""
    if sidecar.metadata:
        return sidecar.metadata
    graph = plan.parent / sidecar.graph.path
    return read_graph_files(graph).metadata if graph.is_file() else {}


def plugin_paths(sidecar: Sidecar, plan: Path) -> list[Path]:
    """Return where the plan's plugin libraries are on this machine."""
    return [plan.parent / library.path for library in sidecar.plugins]


def write_sidecar(sidecar: Sidecar, plan: Path) -> None:
    """Write the JSON file of ``plan`` atomically."""
    with atomic_path(sidecar_path(plan)) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(sidecar), indent=2) + "\n")


def read_sidecar(plan: Path) -> Sidecar:
    """Read the JSON file of ``plan``.

    Raises:
        UserError: the plan or its JSON is missing, or the JSON is not of this form.
    """
    path = sidecar_path(plan)
    if not plan.is_file():
        raise UserError(f"no engine at {plan}; build it: {_default_command(plan)}")
    if not path.exists():
        raise UserError(
            f"{plan} has no {path.name}, so nothing says what it was built from; "
            f"build it again: {_default_command(plan)}"
        )
    remedy = f"build the engine again: {_default_command(plan)}"
    content = read_json(path, remedy)
    with used(path, "a description this version reads", remedy):
        return _from_json(content)


def describe_build(sidecar: Sidecar, plan: Path) -> str:
    """Return one line on ``plan``: its builder, its GPUs, the time of the build and its size."""
    title = FAMILIES[sidecar.family].title
    version = ".".join(map(str, version_tuple(sidecar.tensorrt)[:3]))
    mebibytes = plan.stat().st_size / 2**20
    return (
        f"built by {title} {version} for {target(sidecar)} in {sidecar.build_seconds:.1f} s, "
        f"{mebibytes:.1f} MiB"
    )


def target(sidecar: Sidecar) -> str:
    """The GPUs that a plan is for: ``8.0 8.6 8.9 12.x``, or the name of the one it was built on."""
    return str(sidecar.gpu or " ".join(sidecar.compute_capabilities))


def check_family(sidecar: Sidecar, plan: Path, asked: str) -> Family:
    """Return the family of TensorRT that runs ``plan``.

    Args:
        asked: the value of the environment variable ``TENSORRT``, which may exclude that family.

    Raises:
        UserError: the variable excludes it.
    """
    family = FAMILIES[sidecar.family]
    if asked in FAMILIES and asked != family.name:
        raise UserError(
            f"{plan} is of {family.title} and TENSORRT={asked} asks for {FAMILIES[asked].title}; leave "
            f"TENSORRT out, or build it again: TENSORRT={asked} {sidecar.command}"
        )
    return family


def check_sidecar(sidecar: Sidecar, plan: Path, trt: ModuleType, gpu: Gpu) -> None:
    """Refuse a plan that is damaged, stale or foreign. ``trt`` is the module of the plan's family.

    Raises:
        UserError: the reason, and the command that builds the plan again.
    """
    reason = (
        _foreign_version(sidecar, trt.__version__)
        or _foreign_gpu(sidecar, gpu)
        or stale_reason(sidecar, plan)
    )
    if reason:
        raise UserError(f"{plan} {reason}; build it again: {sidecar.command}")


def _foreign_version(sidecar: Sidecar, running: str) -> str | None:
    built = version_tuple(sidecar.tensorrt)
    now = version_tuple(running)
    fits = built[0] == now[0] and built <= now if sidecar.version_compatible else built == now
    title = FAMILIES[sidecar.family].title
    return None if fits else f"is of {title} {sidecar.tensorrt} and this is {running}"


def _foreign_gpu(sidecar: Sidecar, gpu: Gpu) -> str | None:
    built = sidecar.gpu
    if built is None:
        return _outside_capabilities(sidecar.compute_capabilities, gpu)
    match sidecar.hardware_compatible:
        case "ampere-plus":
            fits = version_tuple(gpu.compute_capability) >= (8, 0)
        case "same-compute-capability":
            fits = built.compute_capability == gpu.compute_capability
        case _:
            fits = built == gpu
    return None if fits else f"is for {built} and this is {gpu}"


def _outside_capabilities(built: tuple[str, ...], gpu: Gpu) -> str | None:
    major = gpu.compute_capability.partition(".")[0]
    if {gpu.compute_capability, f"{major}.x"} & set(built):
        return None
    return f"is for compute capability {' '.join(built)} and this is {gpu}"


def stale_reason(sidecar: Sidecar, plan: Path) -> str | None:
    """Return what changed in the plan, its graph or its plugins since the build, or None."""
    if sha256_of(plan) != sidecar.plan_sha256:
        return "is not the file that was built (damaged, or copied without its .json)"
    graph = plan.parent / sidecar.graph.path
    if graph.is_file() and read_graph_files(graph).sha256() != sidecar.graph.sha256:
        return f"is older than its graph {graph}"
    for library, path in zip(sidecar.plugins, plugin_paths(sidecar, plan), strict=True):
        if not path.is_file():
            return f"needs the plugins {path}, which are missing (`make plugins`)"
        if sha256_of(path) != library.sha256:
            return f"was built with other plugins than {path} holds now"
    return None


def _relative(path: Path, plan: Path) -> str:
    return os.path.relpath(path.resolve(), plan.parent.resolve())


def _default_command(plan: Path) -> str:
    return f"python -m trt_code.build_engine --onnx {plan.with_suffix('.onnx')} --output {plan}"


def _from_json(data: dict[str, Any]) -> Sidecar:
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']}, not {FORMAT}")
    sidecar = Sidecar(
        **{
            **data,
            "gpu": Gpu(**data["gpu"]) if data["gpu"] else None,
            "compute_capabilities": tuple(map(str, data["compute_capabilities"])),
            "graph": SourceFile(**data["graph"]),
            "plugins": tuple(SourceFile(**library) for library in data["plugins"]),
            "profiles": tuple(
                Profile(**{name: Shape(*shape) for name, shape in profile.items()})
                for profile in data["profiles"]
            ),
            "ranges": {name: Range(*sizes) for name, sizes in data.get("ranges", {}).items()},
        }
    )
    if sidecar.family not in FAMILIES:
        raise ValueError(f"no family {sidecar.family!r}")
    if (sidecar.gpu is None) != (sidecar.family == RTX.name and bool(sidecar.compute_capabilities)):
        raise ValueError("nothing says which GPUs it is for")
    parts = (sidecar, sidecar.gpu, sidecar.graph, *sidecar.plugins)
    for part in filter(None, parts):
        for field in dataclasses.fields(part):
            if field.type is str and not isinstance(getattr(part, field.name), str):
                raise TypeError(f"{field.name} is not text")
    for file in (sidecar.graph, *sidecar.plugins):
        if len(file.path) > LONGEST_PATH:
            raise ValueError(f"a path of {len(file.path)} characters")
    if not all(isinstance(value, str) for value in dict(sidecar.metadata).values()):
        raise TypeError("metadata is not text")
    if not sidecar.profiles:
        raise ValueError("no profiles")
    _check_sizes(sidecar)
    return sidecar


def _check_sizes(sidecar: Sidecar) -> None:
    """Raise ``ValueError`` unless every size is a whole number that an engine can have."""
    shapes = [
        shape for profile in sidecar.profiles for shape in (profile.min, profile.opt, profile.max)
    ]
    for size in itertools.chain(*shapes, *sidecar.ranges.values()):
        if type(size) is not int or not 1 <= size <= LARGEST_SIZE:
            raise ValueError(f"a size of {size!r}")
    if not version_tuple(sidecar.tensorrt):
        raise ValueError(f"a version {sidecar.tensorrt[:20]!r}")
    seconds = sidecar.build_seconds
    if type(seconds) not in (int, float) or not 0 <= seconds < LONGEST_BUILD:
        raise ValueError(f"build_seconds is {seconds!r}")
    if type(sidecar.version_compatible) is not bool:
        raise ValueError(f"version_compatible is {sidecar.version_compatible!r}")
