"""Plots of results: small panels with few lines each, labelled directly.

matplotlib is imported when something is drawn. Every function writes a PNG.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Point = tuple[float, float]
DPI = 130
MANY = 40  # points of a line; it is drawn without dots
_SMALL = 7.5
_LABEL_HEIGHT = 9.5  # points between two names at the end of lines
# heights of a label above its point, best first
_HEIGHTS = (3, -9, 14, -20, 25, -31, 36, -42, 47, -53, 58, -64)


class Panel(NamedTuple):
    """Lines in one coordinate system: ``series`` has the points of each line under its name."""

    title: str
    series: Mapping[str, Sequence[Point]]


class Dot(NamedTuple):
    """A value with its name, its group (which decides the colour) and the end of a thin line."""

    name: str
    group: str
    value: float
    upper: float


def colours(names: Sequence[str]) -> dict[str, Any]:
    """Return a colour for each name; the same order of names gives the same colours."""
    from matplotlib import colormaps

    palette = colormaps["tab10"].colors
    return {name: palette[index % len(palette)] for index, name in enumerate(names)}


def lines(
    path: Path,
    title: str,
    rows: Sequence[tuple[str, Sequence[Panel]]],
    xlabel: str,
    ylabel: str = "",
    log: bool = True,
    ticks: Sequence[float] = (),
    width: float = 2.3,
    height: float = 2.6,
) -> None:
    """Draw a grid of panels; the names of the lines are right of each row.

    Args:
        path: PNG to write.
        title: of the figure.
        rows: the label of a row's vertical axes, and its panels from left to right. The panels of a row
            share their vertical axis, unless they have labels of their own in ``ylabel``.
        xlabel: of the horizontal axes.
        ylabel: of the vertical axes, if all are the same; it comes before the row's label.
        log: whether both axes are logarithmic.
        ticks: of the horizontal axes.
        width: of a panel, in inches.
        height: of a panel, in inches.
    """
    rows = [(label, panels) for label, panels in rows if panels] or [("", [Panel("", {})])]
    columns = max(len(panels) for _, panels in rows)
    names = list(dict.fromkeys(name for _, panels in rows for p in panels for name in p.series))
    colour = colours(names)
    figure, axes = grid(len(rows), columns, (2.3 + width * columns, 0.7 + height * len(rows)))
    for row, (label, panels) in enumerate(rows):
        values = [y for panel in panels for points in panel.series.values() for _, y in points]
        for column, axis in enumerate(axes[row]):
            if column >= len(panels):
                axis.set_axis_off()
                continue
            panel = panels[column]
            for above, (name, points) in enumerate(reversed(panel.series.items())):
                at, heights = zip(*sorted(points), strict=True)
                size = 2.5 if len(points) > 1 else 5
                style = {"marker": "o", "markersize": size, "linewidth": 1.2}
                if len(points) >= MANY:  # a curve shows below one that covers it
                    style = {"linewidth": 1 + 2.5 * above, "alpha": 0.5 if above else 1}
                axis.plot(at, heights, color=colour[name], zorder=3 - 0.1 * above, **style)
            if log:
                axis.set(xscale="log", yscale="log")
                plain_ticks(axis.xaxis, axis.yaxis)
            if ticks:
                axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
                axis.minorticks_off()
            if values:
                axis.set_ylim(*_limits(values, log))
            axis.set_title(panel.title, fontsize="small")
            axis.tick_params(labelsize=_SMALL, labelleft=column == 0)
            axis.grid(alpha=0.3)
            if row == len(rows) - 1:
                axis.set_xlabel(xlabel, fontsize="small")
        axes[row][0].set_ylabel(f"{label}\n{ylabel}" if label else ylabel, fontsize="small")
        _name_lines(axes[row][: len(panels)], panels, colour)
    save(figure, title, path)


def dots(path: Path, title: str, panels: Sequence[tuple[str, Sequence[Dot]]], xlabel: str) -> None:
    """Draw one row per name and one panel per case, each value printed next to its dot.

    Args:
        path: PNG to write.
        title: of the figure.
        panels: the title of each panel and its dots; names may be missing from a panel.
        xlabel: of the horizontal axes, which are logarithmic.
    """
    names = list(dict.fromkeys(dot.name for _, some in panels for dot in some))
    groups = list(dict.fromkeys(dot.group for _, some in panels for dot in some))
    colour = colours(groups)
    size = 1.6 + 2.5 * max(1, len(panels)), 1.1 + 0.23 * len(names)
    figure, axes = grid(1, max(1, len(panels)), size, sharey=True)
    for axis, (heading, some) in zip(axes[0], panels, strict=False):
        for dot in some:
            row = names.index(dot.name)
            axis.plot([dot.value, dot.upper], [row, row], color=colour[dot.group], linewidth=1)
            axis.plot([dot.value], [row], "o", color=colour[dot.group], markersize=5)
            axis.annotate(
                three_digits(dot.value),
                (max(dot.value, dot.upper), row),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=_SMALL,
            )
        axis.set_xscale("log")
        low, high = _limits([x for dot in some for x in (dot.value, dot.upper)] or [1.0], True)
        axis.set_xlim(low, high * (high / low) ** 0.3)  # space for the numbers
        plain_ticks(axis.xaxis, dense=high < 15 * low)
        axis.set_title(heading, fontsize="small")
        axis.set_xlabel(xlabel, fontsize="small")
        axis.set_yticks(range(len(names)), names, fontsize=_SMALL)
        axis.tick_params(axis="x", labelsize=_SMALL)
        axis.grid(axis="y", alpha=0.3)
        axis.set_ylim(len(names) - 0.5, -0.5)
    save(figure, title, path)


def points(
    path: Path,
    title: str,
    series: Mapping[str, Mapping[str, Point]],
    xlabel: str,
    ylabel: str,
) -> None:
    """Draw named points; those of a series are joined in the order of their horizontal values.

    Args:
        path: PNG to write.
        title: of the figure.
        series: for each name of a series, the points by their names. The horizontal axis is logarithmic.
        xlabel, ylabel: of the axes.
    """
    figure, ((axes,),) = grid(1, 1, (7.2, 4.4))
    colour = colours(list(series))
    for name, named in series.items():
        chosen = sorted(named.values())
        axes.plot(
            *zip(*chosen, strict=True), color=colour[name], marker="o", ms=4, lw=0.8, label=name
        )
    axes.set_xscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.margins(0.12)
    plain_ticks(axes.xaxis)
    axes.legend(fontsize=_SMALL, frameon=False)
    _label_points(
        axes,
        [
            (label, at, colour[name])
            for name, named in series.items()
            for label, at in named.items()
        ],
    )
    save(figure, title, path)


def three_digits(value: float) -> str:
    """A positive number with three significant digits and no exponent: 0.690, 20.9, 1230."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def plain_ticks(*axes: Any, dense: bool = True) -> None:
    """Label logarithmic axes with 1, 2, 5, 10, ... (1, 10, ... unless ``dense``), without exponents."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in axes:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if dense else (1,), numticks=8))
        axis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        )
        axis.set_minor_formatter(NullFormatter())


def grid(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple:
    """A figure of ``size`` inches and its axes as a [rows, columns] array; ``options`` of subplots."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Any, title: str, path: Path) -> None:
    """Write the figure under ``title`` as a PNG."""
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=DPI, format="png")


def _limits(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        factor = max(high / low, 2) ** 0.06
        return low / factor, high * factor
    margin = 0.05 * ((high - low) or 1)
    return low - margin, high + margin


def _name_lines(axes: Sequence[Any], panels: Sequence[Panel], colour: Mapping[str, Any]) -> None:
    """Write each name once, right of the last panel.

    A thin line leads to the end of the plotted one. A name that the last panel does not have stands at
    the height of its line in the last panel that has it, whose title follows the name. Names that would
    overlap move apart.
    """
    ends = {name: (panel, max(points)) for panel in panels for name, points in panel.series.items()}
    last, axis = panels[-1], axes[-1]
    axis.figure.draw_without_rendering()  # places the axes
    box, scale = axis.get_window_extent(), axis.figure.dpi / 72
    order = sorted(ends, key=lambda name: ends[name][1][1])
    heights = [axis.transData.transform(ends[name][1])[1] - box.y0 for name in order]
    places = _apart([height / scale for height in heights], _LABEL_HEIGHT)
    for name, height in zip(order, places, strict=True):
        panel, end = ends[name]
        line = {"arrowstyle": "-", "color": colour[name], "lw": 0.6, "alpha": 0.6}
        axis.annotate(
            name if panel is last else f"{name} ({panel.title})",
            end,
            xytext=(1.06, height * scale / box.height),
            textcoords="axes fraction",
            va="center",
            fontsize=_SMALL,
            color=colour[name],
            annotation_clip=False,
            arrowprops=line if panel is last else None,
        )


def _label_points(axes: Any, labels: Sequence[tuple[str, Point, Any]]) -> None:
    """Write each label, in its colour, near its point, where it covers no other label, point or legend.

    A thin line leads to a label that is further away. One without a free place stands at the first place.
    """
    from matplotlib.transforms import Bbox

    axes.figure.draw_without_rendering()  # places the axes
    pixels = axes.figure.dpi / 72
    frame = axes.get_window_extent()
    places = axes.transData.transform([at for _, at, _ in labels])
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in places]
    taken.append(axes.get_legend().get_window_extent())
    for (label, at, colour), (x, y) in zip(labels, places, strict=True):
        probe = axes.text(0, 0, label, fontsize=_SMALL)
        width, height = probe.get_window_extent().size
        probe.remove()
        boxes = {
            (side, up): Bbox.from_bounds(
                x + 4 * pixels if side == "left" else x - 4 * pixels - width,
                y + up * pixels,
                width,
                height,
            )
            for up, side in itertools.product(_HEIGHTS, ("left", "right"))
        }
        free = (
            place
            for place, box in boxes.items()
            if not box.count_overlaps(taken) and frame.contains(*box.p0) and frame.contains(*box.p1)
        )
        side, up = chosen = next(free, ("left", _HEIGHTS[0]))
        taken.append(boxes[chosen])
        line = {"arrowstyle": "-", "color": colour, "lw": 0.4}
        axes.annotate(
            label,
            at,
            (4 if side == "left" else -4, up),
            textcoords="offset points",
            ha=side,
            va="bottom",
            color=colour,
            fontsize=_SMALL,
            arrowprops=line if abs(up) > _LABEL_HEIGHT else None,
        ).set_in_layout(False)


def _apart(heights: Sequence[float], least: float) -> list[float]:
    """Move ascending heights as little as possible so that neighbours are ``least`` apart."""
    groups: list[list[float]] = []  # the wanted heights of each group of touching places
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _first(groups[-1], least) < _first(
            groups[-2], least
        ) + least * len(groups[-2]):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_first(g, least) + least * i for g in groups for i in range(len(g))]


def _first(group: Sequence[float], least: float) -> float:
    """Return the lowest of a group of touching places, such that their mean is that of the wanted heights."""
    return sum(group) / len(group) - least * (len(group) - 1) / 2
