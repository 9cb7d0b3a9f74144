"""Turns results of ``bench`` into Markdown and a plot; ``make report`` repeats this from the JSON."""

import functools
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from train_model import plots
from train_model.cli import Parser, output_folder, path_argument, run
from train_model.documents import read_json, used
from train_model.tables import Column, Table, as_json, facts, not_run, write_files
from trt_code.measure.machine import machine_name

LEGEND = (
    "bs: batch size; sl: source length in tokens; lt: median latency of the network on its device, ms; "
    "ht: the same from host to host, ms; tp: source tokens/s (bs x sl / lt); acc: share of equal tokens; "
    "a0, r0: largest absolute and median relative difference of the scores; all against PyTorch FP32"
)
RULE = "----+----+--------+---------+---------+---------+---------+---------+-------------"


def _check(row: Mapping[str, Any]) -> str:
    reason = f": {row['reason']}" if row["reason"] else ""
    return f" {row['check']}{reason}"


TABLE = Table(
    [
        Column("bs", "bs", width=4),
        Column("sl", "sl", width=4),
        Column("lt", "lt", ".3f", 8),
        Column("ht", "ht", ".3f", 9),
        *(Column(key, key, ".3e", 9) for key in ("tp", "acc", "a0", "r0")),
        Column(" output check", _check, left=True),
    ],
    separator="|",
)


def text_head() -> str:
    """Return the header of the table for a terminal."""
    return f"{RULE}\n{TABLE.head()}\n{RULE}"


def text_row(row: dict[str, Any]) -> str:
    """One row of the table for a terminal."""
    return TABLE.line(row)


def block_name(row: dict[str, Any]) -> str:
    """Return the heading of a block of rows: the runner, its precision and its device."""
    return f"{row['runner']} {row['precision']} ({row['device']})"


def markdown(results: dict[str, Any]) -> str:
    """The whole run as a Markdown page."""
    lines = [f"# Latency and agreement: {results['model']}", ""]
    lines += facts(results["machine"])
    lines += [f"- input: {text}" for text in results["input"]]
    lines += ["", LEGEND + ".", ""]
    for name, rows in _blocks(results):
        peak = max(row.get("peak_memory_bytes") or 0 for row in rows)
        memory = f", peak memory {peak / 2**20:.0f} MiB" if peak else ""
        lines += [f"## {name}{memory}", "", *TABLE.markdown(rows), ""]
    lines += not_run(results["not_run"])
    return "\n".join(lines)


def plot(results: dict[str, Any], path: Path) -> None:
    """Plot the latency of every block, one panel per shape, as a PNG at ``path``.

    A thin line marks the range from the median to the 95th percentile.
    """
    timed = [row for row in results["rows"] if row["lt"]]
    panels = []
    for batch, length in sorted({(row["bs"], row["sl"]) for row in timed}):
        dots = [
            plots.Dot(block_name(row), row["precision"], row["lt"], row["lt_p95"])
            for row in timed
            if (row["bs"], row["sl"]) == (batch, length)
        ]
        panels.append((f"{batch} x {length}", dots))
    title = f"{results['model']} on {machine_name(results['machine'])}: batch x source tokens"
    plots.dots(path, title, panels, "latency, ms")


def write(
    results: dict[str, Any],
    folder: Path,
    pictures: Mapping[str, Callable[[dict[str, Any], Path], None]] | None = None,
) -> None:
    """Write ``results.json``, ``.md`` and the plots into ``folder``: all of them, or none.

    Args:
        results: the results of ``bench``.
        folder: the folder to write to.
        pictures: functions that draw a plot, by the names of the files; default: ``results.png``.
    """
    drawn = {"results": plot} if pictures is None else pictures
    page = markdown(results)  # first: it fails if the results have another form
    files: dict[str, Any] = {"results.json": as_json(results), "results.md": page}
    for name, draw in drawn.items():
        files[f"{name}.png"] = functools.partial(draw, results)
    write_files(folder, files)


def _blocks(results: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for name, rows in groupby(results["rows"], key=block_name):
        yield name, list(rows)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m trt_code.report", description=__doc__)
    parser.add_argument("--results", type=path_argument, default=Path("build/bench/results.json"))
    parser.add_argument(
        "--output", type=output_folder, help="folder; that of the results if not given"
    )
    arguments = parser.parse_args(argv)
    results = read_json(arguments.results, "make it with `make bench`")
    folder = arguments.output or arguments.results.parent
    with used(arguments.results, "a result of bench", "make it again with `make bench`"):
        write(results, folder)
    print(f"wrote {folder}/results.md and results.png")


if __name__ == "__main__":
    run(main)
