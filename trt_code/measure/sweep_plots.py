"""Two pictures of a sweep: latency by source length, and throughput by batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trt_code.report import block_name


def latency(results: dict[str, Any], path: Path) -> None:
    """Median latency by source length, a panel a batch, as a PNG at ``path``."""
    _panels(results, path, "sl", "bs", "lt", "source tokens", "batch {}", "latency, ms")


def throughput(results: dict[str, Any], path: Path) -> None:
    """Source tokens a second by batch, a panel a source length, as a PNG at ``path``."""
    _panels(results, path, "bs", "sl", "tp", "batch", "{} source tokens", "source tokens/s")


PLOTS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "latency": latency,
    "throughput": throughput,
}


def _panels(
    results: dict[str, Any], path: Path, along: str, panel: str, key: str, *labels: str
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in results["rows"] if row[key]]
    values = sorted({row[panel] for row in rows})[-5:] or [0]
    names = list(dict.fromkeys(map(block_name, rows)))
    figure, axes = pyplot.subplots(
        1,
        len(values),
        figsize=(1.5 + 3.2 * len(values), 4.4),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    colours = pyplot.get_cmap("tab20").colors
    for axis, value in zip(axes[0], values, strict=True):
        for index, name in enumerate(names):
            points = sorted(
                (row[along], row[key])
                for row in rows
                if row[panel] == value and block_name(row) == name
            )
            if points:
                at, heights = zip(*points, strict=True)
                axis.plot(at, heights, "o-", markersize=3, color=colours[index % 20], label=name)
        axis.set(xscale="log", yscale="log", xlabel=labels[0], title=labels[1].format(value))
        ticks = sorted({row[along] for row in rows})
        axis.set_xticks(ticks, ticks)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(labels[2])
    seen: dict[str, Any] = {}
    for axis in axes[0]:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            seen.setdefault(name, handle)
    figure.legend(seen.values(), seen.keys(), loc="outside lower center", ncols=4, fontsize="small")
    machine = results["machine"]
    figure.suptitle(
        f"{results['model']} on {machine.get('gpu', machine['cpu'])}", fontsize="medium"
    )
    figure.savefig(path, dpi=130, format="png")
    pyplot.close(figure)
