"""Loss curves of several trainings side by side, from what they printed.

    torchrun --nproc-per-node 2 -m train_model.train --recipe demo-ar \\
        --set log_format=json --set log_interval=1 2> two.log
    python -m train_model.loss_curves "one GPU=one.log" "two GPUs=two.log" --output build/curves

The first is the one that the others are held against. Writes ``results.json``, ``.md`` and ``.png``.
"""

import json
from pathlib import Path
from typing import Any

from train_model.cli import Parser, UserError, atomic_path, run

KEYS = ("loss", "gnorm")  # as fairseq prints them, rounded to three decimals
ROWS = 10  # of the table


def read(path: Path) -> dict[int, dict[str, float]]:
    """The entries of a log by update.

    Raises:
        UserError: there is no such file, or no entry in it.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    entries = [json.loads(line[line.index("{") :]) for line in lines if "| train_inner | {" in line]
    if not entries:
        raise UserError(
            f"{path} has no entries of a training in JSON; train with --set log_format=json"
        )
    return {
        int(entry["num_updates"]): {key: float(entry[key]) for key in KEYS} for entry in entries
    }


def compare(runs: dict[str, dict[int, dict[str, float]]]) -> dict[str, Any]:
    """The curves over the updates that all runs logged, and how far each is from the first.

    Raises:
        UserError: no update is in all of them.
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
    """The comparison as a Markdown page."""
    runs, updates = results["runs"], results["updates"]
    lines = ["# Loss curves", "", *(f"- {note}" for note in notes), ""]
    lines += [f"Over {len(updates)} updates, held against the first:", ""]
    lines += ["| | largest difference of loss | of gradient norm |"]
    lines += ["| --- | ---: | ---: |"]
    for item in runs:
        apart = [f"{item[f'largest {key} difference']:g}" for key in KEYS]
        lines += [f"| {item['name']} | {' | '.join(apart)} |"]
    names = [f"{item['name']}: {key}" for item in runs for key in ("loss", "gradient norm")]
    lines += ["", f"| update | {' | '.join(names)} |", "| ---: " * (1 + len(names)) + "|"]
    steps = [round(i * (len(updates) - 1) / (ROWS - 1)) for i in range(ROWS)]
    for index in sorted(set(steps)):
        cells = [item["curves"][key][index] for item in runs for key in KEYS]
        lines += [f"| {updates[index]} | {' | '.join(f'{cell:g}' for cell in cells)} |"]
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], path: Path) -> None:
    """Loss and gradient norm by update as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, key, label in ((axes[0], "loss", "loss, bits"), (axes[1], "gnorm", "gradient norm")):
        for number, item in enumerate(results["runs"]):
            style = {"linewidth": 4, "alpha": 0.4} if number == 0 else {"linewidth": 1}
            axis.plot(results["updates"], item["curves"][key], label=item["name"], **style)
        axis.set(xlabel="update", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=130, format="png")
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(prog="python -m train_model.loss_curves", description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="+", metavar="NAME=LOG", help="a training and its log")
    parser.add_argument("--note", action="append", default=[], help="a line above the table")
    parser.add_argument("--output", type=Path, default=Path("build/curves"), help="folder")
    arguments = parser.parse_args(argv)
    runs = {}
    for text in arguments.run:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise UserError(f"{text!r} is not name=log")
        runs[name] = read(Path(path))
    results = compare(runs)
    with atomic_path(arguments.output / "results.json") as path:
        path.write_text(json.dumps({"notes": arguments.note} | results) + "\n", encoding="utf-8")
    with atomic_path(arguments.output / "results.md") as path:
        path.write_text(markdown(results, arguments.note), encoding="utf-8")
    with atomic_path(arguments.output / "results.png") as path:
        plot(results, path)
    print(f"wrote {arguments.output}/results.json, .md and .png")


if __name__ == "__main__":
    run(main)
