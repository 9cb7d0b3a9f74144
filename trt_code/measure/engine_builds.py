"""Builds every graph of a model, and records time, peak memory, plan size and what TensorRT inferred.

    make engine-builds MODEL=demo
    python -m trt_code.measure.engine_builds --model demo --output doc/results/rtx
    python -m trt_code.measure.engine_builds --model demo --only 'model.fp16.*'

TensorRT for RTX does not need a GPU. Each build runs in a separate process, to measure its peak of resident
memory; plans are not kept. Another process parses each graph at the smallest, usual and largest size of the
profile, and compares TensorRT's types and shapes with the file (``trt_code.engine.inspection``). The graphs
are the patched ones in the model's build folder. Models that were recorded before stay in the record.
"""

import concurrent.futures
import fnmatch
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from train_model.cli import Parser, UserError, first_line, one_line, run
from train_model.documents import read_json, used
from train_model.model_folder import model_name
from train_model.processes import SPAWN
from train_model.tables import Column, Table, as_json, facts, write_files
from trt_code import arguments
from trt_code.engine.builder import axis_ranges
from trt_code.engine.graph_files import read_graph_files
from trt_code.engine.profiles import default_profile, named_sizes
from trt_code.engine.sidecar import read_sidecar
from trt_code.measure.machine import describe

RECORD = "builds.json"
MEASURED = ("seconds", "cpu_seconds", "peak_mib", "plan_mib", "compared", "different")
TABLE = Table(
    [
        Column("graph", "graph", width=34, left=True),
        Column("plugins", "plugins", left=True),
        Column("build, s", "seconds", ".1f", 9),
        Column("CPU, s", "cpu_seconds", ".1f"),
        Column("peak, MiB", "peak_mib", width=10),
        Column("plan, MiB", "plan_mib", ".1f", 10),
        Column("compared", "compared", width=9),
        Column("different", "different", width=10),
        Column("result", "result", left=True),
    ],
    separator=" ",
)


def graphs(folder: Path) -> list[Path]:
    """Return the patched graphs in a model's folder, in the order of their names."""
    found = (path for path in sorted(folder.glob("model.*.onnx")) if path.name != "model.qdq.onnx")
    return [path for path in found if "precision" in read_graph_files(path).metadata]


def record(graph: Path) -> dict[str, Any]:
    """Build and inspect one graph, each in a separate process; return the row with the outcome."""
    row: dict[str, Any] = {
        "graph": graph.name,
        "plugins": read_graph_files(graph).metadata.get("plugins", "lite"),
    }
    row |= dict.fromkeys(MEASURED)
    try:
        row |= _build(graph)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=SPAWN) as process:
            return row | process.submit(_inspect, graph).result()
    except UserError as error:
        return row | {"result": one_line(str(error))}


def _build(graph: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, (Path(name) / "said").open("w+") as said:
        plan = Path(name) / "model.plan"
        command = [sys.executable, "-m", "trt_code.build_engine", "--onnx", str(graph)]
        # in a checkout, the packages are where this process found them, which may not be the folder it is in
        process = subprocess.Popen(
            [*command, "--output", str(plan)],
            stdout=said,
            stderr=said,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise UserError(
                (said.read().strip() or f"status {process.returncode}").splitlines()[-1]
            )
        sidecar = read_sidecar(plan)
        return {
            "seconds": sidecar.build_seconds,
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_mib": round(usage.ru_maxrss / 1024),
            "plan_mib": round(plan.stat().st_size / 2**20, 1),
            "result": f"built by {sidecar.family} {sidecar.tensorrt}",
        }


def _inspect(path: Path) -> dict[str, Any]:
    # late imports: only the process that inspects needs them
    from onnx_export.onnx_file import read_graph
    from trt_code.engine.inspection import inspect
    from trt_code.engine.tensorrt_api import load_tensorrt

    trt, graph, model = load_tensorrt(), read_graph_files(path), read_graph(path)
    profile, ranges = default_profile(graph.positions), axis_ranges(graph, {})
    found = [inspect(trt, model, sizes, path) for sizes in named_sizes(profile, ranges)]
    differences = [line for inspection in found for line in inspection.differences]
    compared = sum(inspection.compared for inspection in found)
    return {"compared": compared, "different": len(differences), "differences": differences}


def read_record(path: Path) -> dict[str, Any]:
    """Return the models recorded in ``path``; none if the file is missing.

    Raises:
        UserError: the file is not such a record.
    """
    if not path.exists():
        return {}
    remedy = "delete it or choose --output"
    models = read_json(path, remedy)
    with used(path, "a record of builds", remedy):
        return {name: {"machine": m["machine"], "rows": m["rows"]} for name, m in models.items()}


def markdown(models: dict[str, Any]) -> str:
    """Return the record as a page: facts and a table for each model."""
    lines = ["# Builds of every graph"]
    for name, results in models.items():
        lines += [
            "",
            f"## {name}",
            "",
            *facts(results["machine"]),
            "",
            *TABLE.markdown(results["rows"]),
        ]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``. Exit status 1 if a graph is refused, or has other types or shapes."""
    parser = Parser(
        prog="python -m trt_code.measure.engine_builds", description=first_line(__doc__)
    )
    arguments.add_model(parser)
    arguments.add_output(parser, "build/engine_builds")
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        help="only graphs of this name, such as 'model.fp16.*'; recorded rows of the others stay",
    )
    given = parser.parse_args(argv)
    name = model_name(given.model)
    paths = graphs(Path(given.build_dir) / name)
    if not paths:
        raise UserError(
            f"no patched graphs of {name} in {given.build_dir}; make them with `make patch`"
        )
    known, machine = read_record(given.output / RECORD), describe("cpu", 1)
    rows: dict[str, dict[str, Any]] = {}
    if given.only:
        if name in known:
            rows = {row["graph"]: row for row in known[name]["rows"]}
            piece = f"{machine['date']}, commit {machine['commit']}, {machine['versions']}"
            machine = known[name]["machine"] | {f"again, {given.only}": piece}
        paths = [path for path in paths if fnmatch.fnmatchcase(path.name, given.only)]
        if not paths:
            raise UserError(f"no patched graph of {name} is named {given.only}")
    print(TABLE.head())
    for path in paths:
        rows[path.name] = record(path)
        print(TABLE.line(rows[path.name]), flush=True)
        # at once: the next graphs may take long, or be interrupted
        in_order = [rows[graph] for graph in sorted(rows)]
        models = known | {name: {"machine": machine, "rows": in_order}}
        write_files(given.output, {RECORD: as_json(models), "builds.md": markdown(models)})
    wrong = sum(rows[path.name]["different"] != 0 for path in paths)
    print(f"{given.output}/builds.md: {len(paths)} graphs of {name}, {wrong} not as they should be")
    return int(wrong > 0)


if __name__ == "__main__":
    run(main)
