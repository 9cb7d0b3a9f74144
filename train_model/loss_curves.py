"""Compare the loss curves of several trainings, from their logs.

    torchrun --nproc-per-node 2 -m train_model.train --recipe demo-ar \\
        --set log_format=json --set log_interval=1 2> two.log
    python -m train_model.loss_curves "one GPU=one.log" "two GPUs=two.log" --output build/curves

The first log is the baseline. Writes ``results.json``, ``.md`` and ``.png``.
"""

import functools
import json
import math
from pathlib import Path
from typing import Any

from train_model import plots
from train_model.cli import Parser, UserError, first_line, output_folder, run
from train_model.data.files import raw_lines
from train_model.documents import used
from train_model.tables import markdown_table, write_files

KEYS = ("loss", "gnorm")  # as fairseq prints them, rounded to three decimals
MARK = b"| train_inner | {"  # comes before an entry
ROWS = 10  # the most rows of the table


def read(path: Path) -> dict[int, dict[str, float]]:
    """Return the entries of a log by update.

    Raises:
        UserError: the file is missing or has no entry.
    """
    remedy = "train with --set log_format=json"
    if not path.is_file():
        raise UserError(f"there is no log {path}; {remedy}")
    found = {}
    with path.open("rb") as file, used(path, "a log of a training in JSON", remedy):
        for line in raw_lines(file, str(path)):
            if MARK in line:
                entry = json.loads(line[line.index(b"{") :])
                values = {key: float(entry[key]) for key in KEYS}
                if not all(map(math.isfinite, values.values())):
                    raise ValueError(f"update {entry['num_updates']} has {values}")
                found[int(entry["num_updates"])] = values
    if not found:
        raise UserError(f"{path} has no entries of a training in JSON; {remedy}")
    return found


def compare(runs: dict[str, dict[int, dict[str, float]]]) -> dict[str, Any]:
    """Return the curves over the updates that all runs logged, and their differences from the first.

    Raises:
        UserError: the runs have no update in common.
    """
    updates = sorted(set.intersection(*map(set, runs.values())))
    if not updates:
        raise UserError("no update is in all of the logs; give logs of the same --set log_interval")
    first = next(iter(runs.values()))
    results: dict[str, Any] = {"updates": updates, "runs": []}
    for name, entries in runs.items():
        curves = {key: [entries[update][key] for update in updates] for key in KEYS}
        apart = {
            f"largest {key} difference": round(
                max(abs(entries[update][key] - first[update][key]) for update in updates), 6
            )
            for key in KEYS
        }
        results["runs"].append({"name": name, **apart, "curves": curves})
    return results


def markdown(results: dict[str, Any], notes: list[str]) -> str:
    """Return the comparison as a Markdown page."""
    runs, updates = results["runs"], results["updates"]
    lines = ["# Loss curves", "", *(f"- {note}" for note in notes), ""]
    lines += [f"Over {len(updates)} updates, compared with the first:", ""]
    apart = (
        [item["name"], *(f"{item[f'largest {key} difference']:g}" for key in KEYS)] for item in runs
    )
    lines += markdown_table(["", "largest difference of loss", "of gradient norm"], apart)
    names = [f"{item['name']}: {key}" for item in runs for key in ("loss", "gradient norm")]
    steps = [round(i * (len(updates) - 1) / (ROWS - 1)) for i in range(ROWS)]
    cells = (
        [str(updates[i]), *(f"{item['curves'][key][i]:g}" for item in runs for key in KEYS)]
        for i in sorted(set(steps))
    )
    lines += ["", *markdown_table(["update", *names], cells)]
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], path: Path) -> None:
    """Plot loss and gradient norm by update as a PNG."""
    rows = []
    for key, label in (("loss", "loss, bits"), ("gnorm", "gradient norm")):
        series = {
            item["name"]: list(zip(results["updates"], item["curves"][key], strict=True))
            for item in results["runs"]
        }
        rows.append((label, [plots.Panel("", series)]))
    plots.lines(path, "training", rows, "update", log=False, width=8)


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(prog="python -m train_model.loss_curves", description=first_line(__doc__))
    parser.add_argument("run", nargs="+", metavar="NAME=LOG", help="a training and its log")
    parser.add_argument("--note", action="append", default=[], help="a line above the table")
    parser.add_argument("--output", type=output_folder, default="build/curves", help="folder")
    arguments = parser.parse_args(argv)
    runs = {}
    for text in arguments.run:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise UserError(f"{text!r} is not name=log")
        if name in runs:
            raise UserError(f"two logs are named {name!r}; give each its own name")
        runs[name] = read(Path(path))
    results = compare(runs)
    write_files(
        arguments.output,
        {
            "results.json": json.dumps({"notes": arguments.note} | results) + "\n",
            "results.md": markdown(results, arguments.note),
            "results.png": functools.partial(plot, results),
        },
    )
    print(f"wrote {arguments.output}/results.json, .md and .png")


if __name__ == "__main__":
    run(main)
