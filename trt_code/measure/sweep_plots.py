"""Two plots of a sweep: latency by source length, and throughput by batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from train_model import plots
from trt_code.measure.machine import machine_name
from trt_code.runners import PRECISIONS


def latency(results: dict[str, Any], path: Path) -> None:
    """Plot median latency by source length, one panel per batch and precision, as a PNG at ``path``."""
    _grid(results, path, "sl", "bs", "lt", "source tokens", "batch {}", "latency, ms")


def throughput(results: dict[str, Any], path: Path) -> None:
    """Plot source tokens per second by batch, one panel per length and precision, as a PNG at ``path``."""
    _grid(results, path, "bs", "sl", "tp", "batch", "{} source tokens", "source tokens/s")


PLOTS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "latency": latency,
    "throughput": throughput,
}


def _grid(
    results: dict[str, Any], path: Path, along: str, panel: str, key: str, *labels: str
) -> None:
    timed = [row for row in results["rows"] if row[key]]
    values = sorted({row[panel] for row in timed})[-5:]
    grid = []
    for precision in (name for name in PRECISIONS if name in {row["precision"] for row in timed}):
        panels = []
        for value in values:
            series: dict[str, list[plots.Point]] = {}
            for row in timed:
                if (row["precision"], row[panel]) == (precision, value):
                    series.setdefault(row["runner"], []).append((row[along], row[key]))
            panels.append(plots.Panel(labels[1].format(value), series))
        grid.append((precision, panels))
    title = f"{results['model']} on {machine_name(results['machine'])}"
    ticks = sorted({row[along] for row in timed})
    plots.lines(path, title, grid, labels[0], labels[2], ticks=ticks)
