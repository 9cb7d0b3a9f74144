"""Builds every graph of the given models and records each plan's build time, peak memory and size.

    python -m trt_code.measure.engine_builds --model demo,demo-ar

TensorRT for RTX does not need a GPU. Each build runs in a separate process, to measure its peak of resident
memory. The graphs are those of `make patch patch-split`, with and without plugins; missing graphs are
skipped. Plans are not kept.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from train_model.cli import Parser, UserError, atomic_path, run
from trt_code import arguments
from trt_code.engine.graph_files import read_graph_files
from trt_code.engine.sidecar import read_sidecar
from trt_code.measure.machine import describe


def graphs(folder: Path) -> list[Path]:
    """The patched graphs in a model's folder, in the order of their names."""
    found = (path for path in sorted(folder.glob("model.*.onnx")) if path.name != "model.qdq.onnx")
    return [path for path in found if "precision" in read_graph_files(path).metadata]


def build(graph: Path) -> dict[str, Any]:
    """Build one graph in a separate process; return the row with the outcome."""
    row: dict[str, Any] = {"graph": f"{graph.parent.name}/{graph.name}"}
    row["plugins"] = read_graph_files(graph).metadata.get("plugins", "lite")
    with tempfile.TemporaryDirectory() as name, (Path(name) / "said").open("w+") as said:
        plan = Path(name) / "model.plan"
        command = [sys.executable, "-m", "trt_code.build_engine", "--onnx", str(graph)]
        process = subprocess.Popen([*command, "--output", str(plan)], stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            return row | {"error": said.read().strip().splitlines()[-1]}
        sidecar = read_sidecar(plan)
        return row | {
            "seconds": sidecar.build_seconds,
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_mib": round(usage.ru_maxrss / 1024),
            "plan_mib": round(plan.stat().st_size / 2**20, 1),
            "by": f"{sidecar.family} {sidecar.tensorrt}",
        }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = [
        "| graph | plugins | build, s | CPU, s | peak memory, MiB | plan, MiB |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['graph']} | {row['plugins']} | {row['error']} | | | |")
            continue
        numbers = (row[name] for name in ("seconds", "cpu_seconds", "peak_mib", "plan_mib"))
        lines.append(f"| {row['graph']} | {row['plugins']} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = Parser(
        prog="python -m trt_code.measure.engine_builds", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--model", default="demo", help="names, comma-separated (demo)")
    arguments.add_build_dir(parser)
    arguments.add_output(parser, "build/engine_builds")
    given = parser.parse_args(argv)
    paths = [
        path for name in given.model.split(",") for path in graphs(Path(given.build_dir) / name)
    ]
    if not paths:
        raise UserError(f"no patched graphs in {given.build_dir}; make them with `make patch`")
    start, rows = time.monotonic(), []
    for path in paths:
        rows.append(build(path))
        print(rows[-1], flush=True)
    results = {"machine": describe("cpu", os.cpu_count() or 1), "rows": rows}
    with atomic_path(given.output / "results.json") as path:
        path.write_text(json.dumps(results, indent=1) + "\n")
    with atomic_path(given.output / "results.md") as path:
        path.write_text(markdown(rows))
    print(f"{given.output}/results.md: {len(rows)} builds in {time.monotonic() - start:.0f} s")
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    run(main)
