"""Turn what bench measured into Markdown and a plot: ``make report`` does it anew from the JSON."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from train_model.cli import Parser, UserError, atomic_path, run

LEGEND = (
    "bs: batch size; sl: source length in tokens; lt: median latency of the network on its device, ms; "
    "ht: the same from host to host, ms; tp: source tokens/s (bs x sl / lt); acc: share of equal tokens; "
    "a0, r0: largest absolute and median relative difference of the scores; all against PyTorch FP32"
)
COLUMNS = ("bs", "sl", "lt", "ht", "tp", "acc", "a0", "r0", "output check")
RULE = "----+----+--------+---------+---------+---------+---------+---------+-------------"


def text_head() -> str:
    """The table's head, as wide as its rows."""
    names = "{:>4}|{:>4}|{:>8}|{:>9}|{:>9}|{:>9}|{:>9}|{:>9}| {}".format(*COLUMNS)
    return f"{RULE}\n{names}\n{RULE}"


def text_row(row: dict[str, Any]) -> str:
    """One line of the table for the terminal."""
    form = "{:>4}|{:>4}|{:>8}|{:>9}|{:>9}|{:>9}|{:>9}|{:>9}| {}"
    return form.format(*_cells(row))


def block_name(row: dict[str, Any]) -> str:
    """What a block of rows is headed with: the runner, its precision and its device."""
    return f"{row['runner']} {row['precision']} ({row['device']})"


def markdown(results: dict[str, Any]) -> str:
    """The whole run as a Markdown page."""
    lines = [f"# Latency and agreement: {results['model']}", ""]
    lines += [f"- {name}: {text}" for name, text in results["machine"].items()]
    lines += [f"- input: {text}" for text in results["input"]]
    lines += ["", LEGEND + ".", ""]
    head = ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join(["---:"] * 8) + " | --- |"]
    for name, rows in _blocks(results):
        peak = max(row.get("peak_memory_bytes") or 0 for row in rows)
        memory = f", peak memory {peak / 2**20:.0f} MiB" if peak else ""
        lines += [f"## {name}{memory}", "", *head]
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
        lines += [""]
    if results["not_run"]:
        lines += ["## Not run", ""]
        lines += [f"- {entry['name']}: {entry['reason']}" for entry in results["not_run"]]
        lines += [""]
    return "\n".join(lines)


def plot(results: dict[str, Any], path: Path) -> None:
    """Latency and throughput of every block by shape, as a PNG at ``path``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    blocks = [(name, [row for row in rows if row["lt"]]) for name, rows in _blocks(results)]
    blocks = [(name, rows) for name, rows in blocks if rows]
    shapes = list(dict.fromkeys((row["bs"], row["sl"]) for _, rows in blocks for row in rows))
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    width = 0.8 / max(1, len(blocks))
    colours = pyplot.get_cmap("tab20").colors
    for axis, key, label in ((axes[0], "lt", "latency, ms"), (axes[1], "tp", "source tokens/s")):
        for i, (name, rows) in enumerate(blocks):
            at = [
                shapes.index((row["bs"], row["sl"])) + (i - (len(blocks) - 1) / 2) * width
                for row in rows
            ]
            axis.bar(
                at, [row[key] for row in rows], width * 0.95, label=name, color=colours[i % 20]
            )
        axis.set_xticks(range(len(shapes)), [f"{batch} x {length}" for batch, length in shapes])
        axis.set(xlabel="batch x source length", ylabel=label)
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    if blocks:
        axes[0].set_yscale("log")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize="small")
    machine = results["machine"]
    figure.suptitle(
        f"{results['model']} on {machine.get('gpu', machine['cpu'])}", fontsize="medium"
    )
    figure.savefig(path, dpi=130, format="png")
    pyplot.close(figure)


def write(
    results: dict[str, Any],
    folder: Path,
    plots: Mapping[str, Callable[[dict[str, Any], Path], None]] | None = None,
) -> None:
    """Write ``results.json``, ``.md`` and the plots into ``folder``: all of them, or none.

    Args:
        results: what bench measured.
        folder: where to.
        plots: by the names of their files; one, ``results.png``, where none are given.
    """
    plots = {"results": plot} if plots is None else plots
    page = markdown(results)  # first: it fails where the results are something else
    with contextlib.ExitStack() as written:
        as_json, as_page, *pictures = (
            written.enter_context(atomic_path(folder / name))
            for name in ("results.json", "results.md", *(f"{name}.png" for name in plots))
        )
        as_json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        as_page.write_text(page, encoding="utf-8")
        for draw, picture in zip(plots.values(), pictures, strict=True):
            draw(results, picture)


def _blocks(results: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for name, rows in groupby(results["rows"], key=block_name):
        yield name, list(rows)


def _cells(row: dict[str, Any]) -> list[str]:
    def number(key: str, form: str) -> str:
        return "-" if row[key] is None else format(row[key], form)

    return [
        str(row["bs"]),
        str(row["sl"]),
        number("lt", ".3f"),
        number("ht", ".3f"),
        number("tp", ".3e"),
        number("acc", ".3e"),
        number("a0", ".3e"),
        number("r0", ".3e"),
        row["check"] + (f": {row['reason']}" if row["reason"] else ""),
    ]


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m trt_code.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("build/bench/results.json"))
    parser.add_argument("--output", type=Path, help="folder; that of the results if not given")
    arguments = parser.parse_args(argv)
    try:
        results = json.loads(arguments.results.read_text(encoding="utf-8"))
        folder = arguments.output or arguments.results.parent
        write(results, folder)
    except FileNotFoundError as error:
        raise UserError(f"no {arguments.results}; `make bench` writes it") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{arguments.results} is no result of bench; `make bench` anew") from error
    print(f"wrote {folder}/results.md and results.png")


if __name__ == "__main__":
    run(main)
