"""Compares autoregressive and one-pass networks in quality and speed over batch sizes: ``make compare``.

    python -m trt_code.measure.compare --entry demo:ort:fp32 --entry demo-ar:ort:fp32:4

An entry is model:runner:precision. For an autoregressive model, the beam (1 is greedy) follows, and the
length penalty if it differs from ``--lenpen``: demo-ar:ort:fp32:4:0.6. All entries translate the same test
sentences, batched in the order of the file, as on a server. Quality is over the whole split. A batch's time
is the median from token ids in host memory to token ids in host memory. Writes
``build/compare/results.json``, ``.md`` and ``.png``.
"""

import argparse
import functools
import itertools
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from train_model import plots
from train_model.cli import Parser, UserError, first_line, number, run, whole_number
from train_model.data.tokenizer import Tokenizer
from train_model.model_folder import find_model
from train_model.models.hypotheses import MAX_BEAM
from train_model.tables import as_json, facts, markdown_table, not_run, write_files
from trt_code import arguments
from trt_code.evaluate import read_split, score
from trt_code.measure.machine import describe, machine_name
from trt_code.runners import Runner, Unavailable, create
from trt_code.runners.base import WARM_UP
from trt_code.runners.timing import wall_ms
from trt_code.text import batching
from trt_code.text.translator import LineTranslator

BATCHES = "1,2,4,8,16,32,64,128"
# The best runners of each device among those that need no engine, with greedy and beam search.
DEFAULT = {
    "cpu": (
        *("demo:native:fp32", "demo-ar:native:fp32:1", "demo-ar:native:fp32:4"),
        *("demo:ort-split:fp32", "demo-ar:ort:fp32:1", "demo-ar:ort:fp32:4"),
    ),
    "cuda": ("demo:cuda-graph:fp16", "demo-ar:cuda-graph:fp16:1", "demo-ar:cuda-graph:fp16:4"),
}
QUALITY = ("exact_match", "bleu", "chrf")


@dataclass(frozen=True)
class Entry:
    """An entry of the comparison: a model in a runner; ``beam`` is None for a one-pass network."""

    model: str
    runner: str
    precision: str
    beam: int | None = None
    len_penalty: float | None = None

    @classmethod
    def parse(cls, text: str, len_penalty: float | None = None) -> "Entry":
        """Read model:runner:precision[:beam[:lenpen]]; ``len_penalty`` is the default of a search.

        Raises:
            UserError: the text does not have this form.
        """
        parts = text.split(":")
        names, numbers = parts[:3], parts[3:]
        try:
            beam = whole_number(1, MAX_BEAM)(numbers[0]) if numbers else None
            own = number(-10, 10)(numbers[1]) if len(numbers) > 1 else len_penalty
            fits = len(names) == 3 and all(names) and len(numbers) <= 2
        except argparse.ArgumentTypeError:
            fits = False
        if not fits:
            raise UserError(
                f"entry {text!r} is not model:runner:precision or with :beam or :beam:lenpen behind it"
            )
        return cls(*names, beam, None if beam is None else own)

    def __str__(self) -> str:
        search = "" if self.beam is None else f", beam {self.beam}"
        if self.beam is not None and self.len_penalty is not None:
            search += f", lenpen {self.len_penalty:g}"
        return f"{self.model}, {self.runner} {self.precision}{search}"


def time_batches(
    runner: Runner, rows: list[list[int]], size: int, repeats: int
) -> dict[str, float]:
    """Translate ``repeats`` batches of ``size`` sentences, taken in turn from ``rows``.

    Returns:
        Median and 95th percentile of a batch in ms, and sentences per second over all batches.
    """
    sentences = itertools.cycle(rows)

    def batch() -> np.ndarray:
        return batching.pad(list(itertools.islice(sentences, size)))

    for _ in range(WARM_UP):
        runner.run(batch())
    batches = [batch() for _ in range(repeats)]
    for source in batches:  # once each, so that the cost of new shapes is not timed
        runner.run(source)
    times = [wall_ms(lambda source=source: runner.run(source)) for source in batches]
    return {
        "batch": size,
        "ms": round(statistics.median(times), 3),
        "ms_p95": round(float(np.percentile(times, 95)), 3),
        "sentences_per_s": round(1e3 * size * repeats / sum(times), 1),
    }


def measure(entry: Entry, args: argparse.Namespace, device: str) -> dict[str, Any]:
    """Measure quality and times of one entry.

    Raises:
        Unavailable: it cannot run here.
    """
    files = find_model(entry.model, args.build_dir)
    sources, references = (side[: args.limit] for side in read_split(files, args.split))
    tokenizer = Tokenizer.from_files(files)
    options = arguments.runner_options(args)
    options |= {"beam": entry.beam, "len_penalty": entry.len_penalty}
    with create(entry.runner, files, entry.precision, device, **options) as runner:
        translations = LineTranslator(runner, tokenizer, unknown="keep").translate(sources)
        quality = score(translations, references, tokenizer)
        rows = [tokenizer.encode(source) for source in sources]
        times = [time_batches(runner, rows, size, args.repeats) for size in args.batch]
    return {"name": str(entry), "sentences": len(sources), **quality, "times": times}


def markdown(results: dict[str, Any]) -> str:
    """Return the comparison as a Markdown page."""
    sizes = [time["batch"] for time in results["rows"][0]["times"]]
    lines = ["# Autoregressive against non-autoregressive", "", *facts(results["machine"])]
    for key, title in (
        ("ms", "Median time of a batch, ms"),
        ("sentences_per_s", "Sentences a second"),
    ):
        head = ["", *QUALITY, *(f"batch {size}" for size in sizes)]
        cells = (
            [
                row["name"],
                *("-" if row[name] is None else f"{row[name]:.2f}" for name in QUALITY),
                *(f"{time[key]:g}" for time in row["times"]),
            ]
            for row in results["rows"]
        )
        lines += ["", f"## {title}", "", *markdown_table(head, cells)]
    return "\n".join([*lines, "", *not_run(results["not_run"])])


def plot(results: dict[str, Any], path: Path) -> None:
    """Plot time and throughput by batch size, one line per entry, as a PNG at ``path``."""
    panels = []
    for key, title in (
        ("ms", "time of a batch, ms"),
        ("sentences_per_s", "sentences per second"),
    ):
        series = {}
        for row in results["rows"]:
            exact = row["exact_match"]
            name = row["name"] + ("" if exact is None else f" ({exact:.2f} % exact)")
            series[name] = [(time["batch"], time[key]) for time in row["times"]]
        panels.append((title, [plots.Panel("", series)]))
    sizes = [time["batch"] for time in results["rows"][0]["times"]]
    title = machine_name(results["machine"])
    plots.lines(path, title, panels, "batch, sentences", ticks=sizes, width=6, height=3.2)


def write(results: dict[str, Any], folder: Path) -> None:
    """Write the results as JSON, page and plot: all of them, or none."""
    write_files(
        folder,
        {
            "results.json": as_json(results),
            "results.md": markdown(results),
            "results.png": functools.partial(plot, results),
        },
    )


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(prog="python -m trt_code.measure.compare", description=first_line(__doc__))
    arguments.add_build_dir(parser)
    arguments.add_machine(parser)
    parser.add_argument(
        "--entry",
        action="append",
        help="model:runner:precision[:beam[:lenpen]]; may be given several times",
    )
    arguments.add_lenpen(parser)
    arguments.add_sizes(parser, "--batch", BATCHES, "batch sizes")
    arguments.add_count(parser, "--repeats", 20, "timed batches of each size")
    arguments.add_split(parser)
    arguments.add_output(parser, "build/compare")
    args = parser.parse_args(argv)
    device = arguments.device(args)
    entries = [Entry.parse(text, args.lenpen) for text in args.entry or DEFAULT[device]]
    results = {"machine": describe(device, args.threads), "rows": [], "not_run": []}
    for entry in entries:
        try:
            row = measure(entry, args, device)
        except Unavailable as reason:
            print(f"{entry}: not run: {reason}", flush=True)
            results["not_run"].append({"name": str(entry), "reason": str(reason)})
            continue
        results["rows"].append(row)
        print(f"{entry}: exact {row['exact_match']:.2f}, BLEU {row['bleu']:.2f}")
        for time in row["times"]:
            print(
                f"  batch {time['batch']:4} {time['ms']:10.3f} ms "
                f"{time['sentences_per_s']:10.1f} sentences/s",
                flush=True,
            )
        write(results, args.output)  # at once: the next entries may take long or be interrupted
    if not results["rows"]:
        raise UserError("none of the entries can run here; see the reasons above")
    write(results, args.output)
    print(f"\nwrote {args.output}/results.json, .md and .png")


if __name__ == "__main__":
    run(main)
