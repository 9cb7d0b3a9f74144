"""Measures the latency of single sentences, text in and text out, with several callers at once.

    python -m trt_code.measure.single_sentences --model demo,en-de-ar --callers 1,8

The callers are threads that share one ``Translator``. Each takes the next sentence of the test text as soon
as it has the last translation. Before the timing, every runner's translations are compared with those of the
first one. Writes ``build/single_sentences/results.json`` and ``.md``.
"""

import argparse
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from train_model.cli import Parser, UserError, first_line, run
from train_model.model_folder import find_model
from train_model.tables import Column, Table, as_json, facts, page, write_files
from trt_code import arguments
from trt_code.evaluate import read_split
from trt_code.measure.machine import describe
from trt_code.runners.timing import wall_ms
from trt_code.text.api import Translator

SENTENCES = 1000  # without --limit; a shorter text is repeated
AGREE = 0.95  # share of equal translations; INT8 rounds otherwise
TABLE = Table(
    [
        Column("model", "model", width=12, left=True),
        Column("runner", "runner", width=14, left=True),
        Column("callers", "callers"),
        Column("p50, ms", "p50", ".2f", width=10),
        Column("p99, ms", "p99", ".2f", width=10),
        Column("sentences/s", "sentences_per_s", ".0f", width=13),
    ]
)


def time_callers(translator: Translator, lines: list[str], callers: int) -> dict[str, float]:
    """Translate each line alone, ``callers`` at a time.

    Returns:
        Median and 99th percentile of a call in ms, and sentences per second of all callers together.
    """

    def timed(line: str) -> float:
        return wall_ms(lambda: translator.translate([line]))

    start = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        times = list(pool.map(timed, lines))
    rate = len(lines) / (time.perf_counter() - start)
    p50, p99 = np.percentile(times, [50, 99]).tolist()
    return {"p50": p50, "p99": p99, "sentences_per_s": rate}


def measure(args: argparse.Namespace, name: str, precision: str) -> list[dict[str, Any]]:
    """Measure one model in every runner, in one precision.

    Raises:
        UserError: a runner is missing, or translates otherwise than the first one.
    """
    files, device = find_model(name, args.build_dir), arguments.device(args)
    sentences = itertools.cycle(read_split(files, args.split)[0])
    lines = list(itertools.islice(sentences, args.limit or SENTENCES))
    rows, expected = [], None
    for runner in args.runner:
        options = {"threads": args.threads, "build_dir": args.build_dir, "beam": args.beam}
        with Translator(
            name, runner=runner, device=device, precision=precision, **options
        ) as translator:
            found = translator.translate(lines)
            expected = expected or found
            equal = sum(a == b for a, b in zip(found, expected, strict=True)) / len(lines)
            if equal < AGREE:
                raise UserError(
                    f"only {equal:.0%} of the translations of {runner} are those of {args.runner[0]}"
                )
            for callers in args.callers:
                times = time_callers(translator, lines, callers)
                title = f"{translator.runner} {translator.precision}"
                rows.append({"model": files.name, "runner": title, "callers": callers, **times})
    return rows


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = Parser(description=first_line(__doc__))
    parser.add_argument("--model", default="demo,demo-ar", help="names of models, comma-separated")
    arguments.add_build_dir(parser)
    arguments.add_machine(parser)
    arguments.add_split(parser)
    arguments.add_runners(parser, "fp32")
    parser.set_defaults(runner=["native", "ort"])
    arguments.add_count(
        parser, "--beam", None, "of a search; default: the model's", arguments.MAX_BEAM
    )
    arguments.add_sizes(
        parser, "--callers", "1,8", "threads that call the translator", arguments.MAX_THREADS
    )
    arguments.add_output(parser, "build/single_sentences")
    args = parser.parse_args(argv)
    rows = []
    for name, precision in itertools.product(args.model.split(","), args.precision):
        rows += measure(args, name, precision)
    machine = describe(arguments.device(args), args.threads)
    results = as_json({"machine": machine, "rows": rows})
    text = page("Single sentences", facts(machine), "", TABLE.markdown(rows))
    write_files(args.output, {"results.json": results, "results.md": text})
    print(TABLE.head(), *map(TABLE.line, rows), sep="\n")
    print(f"\nwrote {args.output}/results.json and .md")
    return 0


if __name__ == "__main__":
    run(main)
