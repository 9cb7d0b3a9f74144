"""A build through TensorRT's API: parse the graph, configure the builder, add the profiles, serialise.

The network is strongly typed, so its precision is the graph's own.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from train_model.cli import UserError, atomic_path
from trt_code.engine import profiles as shapes
from trt_code.engine.capabilities import set_capabilities
from trt_code.engine.graph_files import GraphFiles
from trt_code.engine.profiles import Profile, Range, Shape
from trt_code.engine.progress import progress_monitor
from trt_code.engine.tensorrt_api import one_line, process_logger


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build, named like the flags of the command line (``--help``)."""

    tf32: bool = True
    workspace: int | None = None  # MiB
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: str = "none"  # "ampere-plus", "same-compute-capability"
    compute_capabilities: tuple[str, ...] = ()  # of TensorRT for RTX
    detailed_layers: bool = False


def build_plan(
    trt: ModuleType,
    graph: GraphFiles,
    profiles: Sequence[Profile],
    options: BuildOptions,
    ranges: Mapping[str, Range],
) -> memoryview:
    """Parse ``graph`` and return the serialised engine.

    Args:
        ranges: sizes of the axes that are not in the profiles.

    Raises:
        UserError: TensorRT cannot read the graph, refuses a profile, or finds no implementation.
    """
    logger = process_logger(trt)
    builder = trt.Builder(logger)
    # TensorRT 10 needs this flag; 11 has only such networks. The flag's number differs between them.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = _parse(trt, network, graph)
    config = builder.create_builder_config()
    _configure(trt, config, options)
    for profile in profiles:
        _add_profile(trt, builder, network, config, profile, graph, ranges)
    if options.timing_cache:
        _attach_timing_cache(trt, config, options.timing_cache)
    plan = builder.build_serialized_network(network, config)
    del parser  # its memory holds the network's weights until here
    if plan is None:
        raise UserError(f"TensorRT could not build {graph.path}: {logger.first_error()}")
    if options.timing_cache:
        _write_timing_cache(config, options.timing_cache)
    return memoryview(plan)


def _parse(trt: ModuleType, network: Any, graph: GraphFiles) -> Any:
    """Read the graph into ``network``; return the parser, which must outlive the build."""
    parser = trt.OnnxParser(network, process_logger(trt))
    if parser.parse_from_file(str(graph.path)):
        return parser
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [
        f"node {error.node()} {error.node_name()!r} ({error.node_operator()}): "
        + one_line(error.desc())
        for error in errors
    ]
    for line in lines[1:]:
        print(f"{graph.path}: {line}", file=sys.stderr)
    hint = ""
    if any(error.node_operator().startswith("Lite") for error in errors):
        hint = (
            "; a Lite operator needs its plugin: run `make plugins`, give --plugins, or patch the graph "
            "with --plugins none"
        )
    first = lines[0] if lines else process_logger(trt).first_error()
    raise UserError(f"TensorRT cannot read {graph.path}: {first}{hint}")


def _configure(trt: ModuleType, config: Any, options: BuildOptions) -> None:
    # TensorRT sets TF32 by default, so --fp32 must clear it.
    set_tf32 = config.set_flag if options.tf32 else config.clear_flag
    set_tf32(trt.BuilderFlag.TF32)
    if options.workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.compute_capabilities:
        set_capabilities(trt, config, options.compute_capabilities)
    if options.hardware_compatible != "none":
        config.hardware_compatibility_level = {
            "ampere-plus": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
            "same-compute-capability": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
        }[options.hardware_compatible]
    if options.detailed_layers:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = progress_monitor(trt)


def axis_ranges(graph: GraphFiles, given: dict[str, Range]) -> dict[str, Range]:
    """Return the ranges of the inputs' axes other than batch, source length and rows.

    Args:
        given: ranges to use instead of the defaults, by axis.

    Raises:
        UserError: the graph lacks an axis of ``given``, or has one without a default.
    """
    free = {axis for axes in graph.axes.values() for axis in axes if isinstance(axis, str)}
    if len(graph.axes) == 1:
        free = set()  # batch and length, under any name
    known = shapes.default_ranges(graph.target_positions) | given
    if odd := sorted(given.keys() - free):
        raise UserError(f"{graph.path} has no axis {odd[0]}; leave out --axis {odd[0]}=...")
    missing = sorted(free - known.keys() - {"batch", "src_len", "rows"})
    if missing:
        raise UserError(
            f"{graph.path} has an axis {missing[0]!r}; give its sizes, --axis {missing[0]}=min:opt:max"
        )
    return {name: sizes for name, sizes in known.items() if name in free}


def _add_profile(
    trt: ModuleType,
    builder: Any,
    network: Any,
    config: Any,
    profile: Profile,
    graph: GraphFiles,
    ranges: Mapping[str, Range],
) -> None:
    optimization = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        tensor_shape = tuple(tensor.shape)
        if network.num_inputs == 1:
            points = [
                _input_shape(tensor.name, tensor_shape, shape)
                for shape in (profile.min, profile.opt, profile.max)
            ]
        elif -1 in tensor_shape:
            points = [
                tuple(sizes.get(axis, axis) for axis in graph.axes[tensor.name])
                for sizes in shapes.named_sizes(profile, ranges)
            ]
        else:
            continue  # its shape is fixed
        optimization.set_shape(tensor.name, *points)
    if config.add_optimization_profile(optimization) < 0:
        raise UserError(
            f"TensorRT refuses the profile {profile}: {process_logger(trt).first_error()}; "
            "change --min, --opt, --max or --axis"
        )


def _input_shape(name: str, declared: tuple[int, ...], wanted: Shape) -> tuple[int, ...]:
    """Put ``wanted`` into the input's axes: batch first, length second, -1 where free."""
    if len(declared) != len(wanted):
        raise UserError(
            f"input {name} has shape {declared}; profiles are for inputs of [batch, length]: "
            "patch the graph with `make patch`"
        )
    for size, fixed, axis in zip(wanted, declared, Shape._fields, strict=True):
        if fixed not in (-1, size):
            raise UserError(
                f"input {name} has its {axis} fixed at {fixed} and the profile asks for {size}; "
                f"give {fixed} in --min, --opt and --max, or export with a free {axis}"
            )
    return tuple(wanted)


def _attach_timing_cache(trt: ModuleType, config: Any, path: Path) -> None:
    """Use the timings in ``path``; a file of another GPU or version is replaced by a fresh one."""
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        reason = process_logger(trt).first_error()
        print(f"starting {path} afresh: TensorRT refuses it ({reason})", file=sys.stderr)
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _write_timing_cache(config: Any, path: Path) -> None:
    """Keep the timings for the next build; a plan is not thrown away because they cannot be kept."""
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(memoryview(config.get_timing_cache().serialize()))
    except UserError as error:
        print(f"warning: {error}; the next build starts without it", file=sys.stderr)
