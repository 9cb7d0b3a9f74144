"""Build a TensorRT engine from a patched ONNX graph: model.fp16.onnx -> model.fp16.plan and its JSON.

``TENSORRT=rtx|full|auto`` in the environment chooses between TensorRT for RTX, which builds without a GPU,
and the full TensorRT (``trt_code.engine.tensorrt_api.choose_family``). The network is strongly typed:
precision is the graph's own, and the one choice left here is whether FP32 matrix products may use TF32
(``--tf32`` or ``--fp32``; by default as the graph's precision says).
"""

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from train_model.cli import (
    Parser,
    UserError,
    atomic_path,
    check_output,
    first_line,
    path_argument,
    run,
    whole_number,
)
from train_model.data.files import sha256_of
from trt_code.engine import profiles as shapes
from trt_code.engine.builder import BuildOptions, axis_ranges, build_plan
from trt_code.engine.capabilities import PORTABLE, capabilities_argument, resolve_current
from trt_code.engine.gpu import Gpu, current_gpu, installed_gpus
from trt_code.engine.graph_files import GraphFiles, read_graph_files
from trt_code.engine.plugin_library import default_library, load_plugins
from trt_code.engine.sidecar import (
    Sidecar,
    describe_build,
    describe_graph,
    describe_plugins,
    read_sidecar,
    stale_reason,
    write_sidecar,
)
from trt_code.engine.tensorrt_api import (
    RTX,
    choose_family,
    deserialize,
    family_of,
    load_tensorrt,
    process_logger,
    require_plugins,
    title_of,
)

TIMING_CACHE = Path("build/timing.cache")

_EPILOG = """\
several profiles: repeat --min, --opt and --max, e.g. one for single sentences and one for batches:
  --min 1x1 --opt 1x32 --max 1x127   --min 2x1 --opt 16x32 --max 64x127
"""


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m trt_code.build_engine",
        description=first_line(__doc__),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--onnx", type=path_argument, required=True, help="graph written by trt_code.onnx_surgeon")
    add(
        "--output",
        type=path_argument,
        required=True,
        help="plan to write; its JSON goes next to it",
    )
    add(
        "--plugins",
        type=path_argument,
        action="append",
        help="plugin library, repeatable (default: build/plugins/liblite_plugins_trt<major>.so "
        "if it exists)",
    )
    _add_shapes(parser)
    tf32 = parser.add_mutually_exclusive_group()
    tf32.add_argument(
        "--tf32",
        action="store_true",
        default=None,
        help="FP32 GEMMs in TF32 (default, except for a graph of precision fp32)",
    )
    tf32.add_argument("--fp32", dest="tf32", action="store_false", help="FP32 GEMMs in full FP32")
    parser.add_argument(
        "--workspace",
        type=whole_number(1, 2**23),
        metavar="N",
        help="limit of tactics' scratch memory, in MiB",
    )
    add(
        "--timing-cache",
        type=path_argument,
        help="file of tactic timings, read if it exists and written afterwards (default: build/timing.cache; "
        "TensorRT RTX has none)",
    )
    add(
        "--compute-capability",
        type=capabilities_argument,
        metavar="LIST",
        help="GPUs that a plan of TensorRT RTX runs on: portable (default: Ampere and later), current, or "
        "e.g. 8.6,8.9 (an A10 is 8.6)",
    )
    add(
        "--version-compatible",
        action="store_true",
        help="plan of the full TensorRT runs on later minors of this major",
    )
    add(
        "--hardware-compatible",
        nargs="?",
        choices=("none", "ampere-plus", "same-compute-capability"),
        const="ampere-plus",
        default="none",
        help="plan of the full TensorRT runs on other GPUs too (bare flag: ampere-plus)",
    )
    add(
        "--if-any",
        action="store_true",
        help="build nothing and exit with status 0 if no TensorRT that takes the graph is installed",
    )
    add(
        "--if-changed",
        action="store_true",
        help="build nothing if the plan is what this command would build: same options, graph, plugins, "
        "TensorRT and GPUs",
    )
    add(
        "--layer-report",
        type=path_argument,
        metavar="JSON",
        help="write the built layers, in detail",
    )
    add("--verbose", action="store_true", help="print everything that TensorRT logs")
    return parser


def _add_shapes(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the profiles and of further axes."""
    for name, meaning in (
        ("min", "smallest batch x source length, repeatable (default 1x1)"),
        ("opt", "most usual one (default 16x32)"),
        ("max", "largest one (default 64 x the network's positions)"),
    ):
        parser.add_argument(
            f"--{name}",
            type=shapes.shape_argument,
            action="append",
            default=[],
            metavar="BxS",
            help=meaning,
        )
    parser.add_argument(
        "--axis",
        type=shapes.range_argument,
        action="append",
        default=[],
        metavar="NAME=MIN:OPT:MAX",
        help="sizes of another axis of half a network, repeatable (default beam=1:1:4, "
        "room and canvas up to the network's target positions)",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Build one plan with the options of the command line."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(argv)
    if args.if_any and not choose_family().is_installed:
        return
    check_output(args.output, args.onnx, *(args.plugins or ()))
    graph = read_graph_files(args.onnx)
    _refuse_functions(graph)
    profiles = shapes.profiles_from_flags(args.min, args.opt, args.max, graph.positions)
    ranges = axis_ranges(graph, dict(args.axis))

    trt = load_tensorrt()
    if graph.needs_plugins:
        try:
            require_plugins(trt)
        except UserError as error:
            if not args.if_any:
                raise
            print(f"{args.onnx} is not built: {error}", file=sys.stderr)
            return
    options = _options(trt, args, graph)
    gpu = None if family_of(trt) is RTX else current_gpu()
    command = _command(argv)
    reported = not options.detailed_layers or args.layer_report.exists()
    if args.if_changed and reported and _is_current(args.output, trt, gpu, options, command):
        print(
            f"{args.output} is up to date: {describe_build(read_sidecar(args.output), args.output)}"
        )
        return
    process_logger(trt).verbose = args.verbose
    libraries = _plugin_libraries(trt, graph, args.plugins)
    for library in libraries:
        load_plugins(trt, library)

    # Hash the files first: a change during the build, which takes minutes, is not in the plan.
    built_from = describe_graph(graph, args.output)
    plugins = tuple(describe_plugins(library, args.output) for library in libraries)
    start = time.monotonic()
    with _ctrl_c_ends_at_once():
        plan = build_plan(trt, graph, profiles, options, ranges)
    seconds = time.monotonic() - start

    if options.detailed_layers:
        _write_layer_report(trt, plan, args.layer_report)
    with atomic_path(args.output) as temporary:
        temporary.write_bytes(plan)
        plan_sha256 = sha256_of(temporary)
    sidecar = Sidecar(
        family=family_of(trt).name,
        tensorrt=trt.__version__,
        gpu=gpu,
        compute_capabilities=options.compute_capabilities,
        graph=built_from,
        plugins=plugins,
        profiles=tuple(profiles),
        tf32=options.tf32,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        plan_sha256=plan_sha256,
        build_seconds=round(seconds, 1),
        command=command,
        ranges=ranges,
        metadata=graph.metadata,
    )
    write_sidecar(sidecar, args.output)
    print(f"{args.output}: {describe_build(sidecar, args.output)}")


def _command(argv: Sequence[str]) -> str:
    """Return the command that builds the plan again, without the flags that do not change the plan."""
    flags = [word for word in argv if word not in ("--if-any", "--if-changed", "--verbose")]
    return f"python -m trt_code.build_engine {shlex.join(flags)}"


def _is_current(
    plan: Path, trt: ModuleType, gpu: Gpu | None, options: BuildOptions, command: str
) -> bool:
    """Whether ``plan`` was built by ``command``, for these GPUs and by this TensorRT, and is not stale."""
    try:
        built = read_sidecar(plan)
    except UserError:  # missing, or not readable: it is built again
        return False
    now = (family_of(trt).name, trt.__version__, gpu, options.compute_capabilities, command)
    before = (built.family, built.tensorrt, built.gpu, built.compute_capabilities, built.command)
    return now == before and stale_reason(built, plan) is None


def _options(trt: ModuleType, args: argparse.Namespace, graph: GraphFiles) -> BuildOptions:
    """Return the build options; refuse, or ignore with a message, those that this TensorRT lacks.

    Raises:
        UserError: a flag asks for what this TensorRT cannot do.
    """
    options = BuildOptions(
        tf32=graph.is_tf32 if args.tf32 is None else args.tf32,
        workspace=args.workspace,
        timing_cache=args.timing_cache or TIMING_CACHE,
        version_compatible=args.version_compatible,
        hardware_compatible=args.hardware_compatible,
        detailed_layers=args.layer_report is not None,
    )
    if family_of(trt) is not RTX:
        if args.compute_capability:
            raise UserError(
                f"{title_of(trt)} builds for the GPU of this machine; leave out --compute-capability, or "
                "build with TENSORRT=rtx"
            )
        return options
    if args.version_compatible:
        raise UserError(
            f"a plan of {title_of(trt)} runs on the version that built it alone; leave out "
            "--version-compatible"
        )
    ignored = []
    if args.hardware_compatible != "none":
        ignored.append("--hardware-compatible: its plans run on every GPU of --compute-capability")
    if args.timing_cache:
        ignored.append("--timing-cache: it times no tactics")
    if args.layer_report and not installed_gpus():
        ignored.append("--layer-report: it reads layers from a plan on a GPU only")
    for line in ignored:
        print(f"{title_of(trt)} ignores {line}", file=sys.stderr)
    return replace(
        options,
        timing_cache=None,
        hardware_compatible="none",
        compute_capabilities=resolve_current(args.compute_capability or PORTABLE),
        detailed_layers=options.detailed_layers and bool(installed_gpus()),
    )


@contextmanager
def _ctrl_c_ends_at_once() -> Iterator[None]:
    """End the process at Ctrl-C: Python's handler would wait for TensorRT. No file is open then."""
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _refuse_functions(graph: GraphFiles) -> None:
    """Refuse model-local functions: the parser expands them before it looks for plugins of the same name."""
    if graph.functions:
        raise UserError(
            f"{graph.path} still carries the reference functions {', '.join(graph.functions)}, "
            "which TensorRT would run instead of the plugins; patch it with `make patch`"
        )


def _plugin_libraries(trt: ModuleType, graph: GraphFiles, given: list[Path] | None) -> list[Path]:
    """Return the plugin libraries to load; none for a graph that has only standard operators."""
    if given or not graph.needs_plugins:
        return given or []
    default = default_library(trt)
    return [default] if default.is_file() else []


def _write_layer_report(trt: ModuleType, plan: memoryview, path: Path) -> None:
    engine = deserialize(trt, plan, "the engine just built")
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(json.loads(text), indent=1) + "\n")


if __name__ == "__main__":
    run(main)
