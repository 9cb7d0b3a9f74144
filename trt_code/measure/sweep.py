"""Measures every runner and rival over batches and lengths: ``make sweep``.

Blocks are measured in the order given, the most wanted first, each row checked before it is timed, as by
``trt_code.bench``. The results so far are written after every block, so that a run that ends early keeps
them. The page names the blocks that did not fit into the time. Writes ``results.json``, ``.md`` and the
plots ``latency.png`` (by source length) and ``throughput.png`` (by batch).
"""

import itertools
import time
from pathlib import Path
from typing import Any

from train_model.cli import Parser, UserError, number, one_line, run
from train_model.model_folder import find_model
from trt_code import arguments, report
from trt_code.bench import Bench, add_repeats
from trt_code.measure import sweep_plots
from trt_code.measure.machine import describe
from trt_code.runners import PRECISIONS, RUNNERS, Unavailable

BATCHES = "1,4,16,64,128"
LENGTHS = "8,16,32,64,128"
BLOCKS = {
    "cuda": "cuda-graph-full:fp16,torch:fp16,torch-graph:fp16,torch-compile:fp16,torch:fp32,torch:tf32,"
    "torch-compile-default:fp16,ort:fp16,ort:fp32,cuda-graph-full:tf32,cuda-graph:fp16,"
    "cuda-graph-full:bf16,cuda-graph-full:fp32,torch-compile-max:fp16,trt:fp16,trt:tf32",
    "cpu": "ort-split:fp32,ort:fp32,torch:fp32",
}
# These compile for half a minute or more per shape, so they are measured on one shape.
COMPILED_SHAPES = "16x32"


def parse_blocks(text: str) -> list[tuple[str, str]]:
    """Parse ``cuda-graph:fp16,torch:fp32`` into names of runners with precisions.

    Raises:
        UserError: the text has another form, or a name is not known.
    """
    blocks = []
    for part in text.split(","):
        name, _, precision = part.strip().partition(":")
        known = {"runner": (name, RUNNERS), "precision": (precision, PRECISIONS)}
        for kind, (given, choices) in known.items():
            if given not in choices:
                raise UserError(
                    f"block {part!r} has no {kind} out of {', '.join(choices)}; "
                    "write e.g. --blocks torch:fp32,ort:fp32"
                )
        blocks.append((name, precision))
    return list(dict.fromkeys(blocks))


class Sweep:
    """The blocks measured so far, and their page."""

    def __init__(self, measured: Bench, facts: dict[str, Any], output: Path, seconds: float):
        self._bench, self._output = measured, output
        self._end = time.monotonic() + seconds
        self.results = facts | {"rows": [], "not_run": []}

    def block(
        self, name: str, precision: str, shapes: list[tuple[int, int]], at_most: float
    ) -> None:
        """Measure a runner on shapes for a limited number of seconds, and write the results so far."""
        title = f"{name} {precision}"
        end = min(self._end, time.monotonic() + at_most)
        if time.monotonic() >= self._end:
            self._leave_out(title, "the time was over (--deadline)")
            return
        try:
            runner = self._bench.create(name, precision)
        except Unavailable as reason:
            self._leave_out(title, str(reason))
            return
        except Exception as error:  # a rival that fails must not stop the others
            self._leave_out(title, one_line(f"{type(error).__name__}: {error}"))
            return
        print(f"\n{title} ({runner.device})\n{report.text_head()}", flush=True)
        left = list(shapes)
        with runner:
            for row in self._bench.rows(runner, shapes):
                self.results["rows"].append(row)
                print(report.text_row(row), flush=True)
                left.remove((row["bs"], row["sl"]))
                if left and time.monotonic() > end:
                    where = ", ".join(f"{batch}x{length}" for batch, length in left)
                    self._leave_out(title, f"the time was over before {where}")
                    break
        self.write()

    def _leave_out(self, title: str, reason: str) -> None:
        self.results["not_run"].append({"name": title, "reason": reason})
        print(f"\n{title}: not run: {reason}", flush=True)
        self.write()

    def write(self, drawn: bool = False) -> None:
        """Write the results and the page so far; write the plots, which take seconds, only at the end.

        Writes nothing before the first row, so that the files of an earlier sweep stay.
        """
        if self.results["rows"]:
            report.write(self.results, self._output, pictures=sweep_plots.PLOTS if drawn else {})


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``. Exit status 1 if a row is Bad."""
    parser = Parser(prog="python -m trt_code.measure.sweep", description=__doc__)
    arguments.add_model(parser)
    arguments.add_machine(parser)
    parser.add_argument(
        "--blocks",
        type=parse_blocks,
        metavar="RUNNER:PRECISION,...",
        help="comma-separated, most wanted first",
    )
    arguments.add_sizes(parser, "--batches", BATCHES, "batch sizes")
    arguments.add_sizes(parser, "--lengths", LENGTHS, "source lengths")
    arguments.add_shapes(
        parser, "--compiled-shapes", COMPILED_SHAPES, " for the rivals that compile each shape"
    )
    add_repeats(parser, repeats=20, seconds=0.5)
    for name, seconds, what in (("--block-seconds", 600, "a block"), ("--deadline", 7200, "all")):
        parser.add_argument(
            name,
            type=number(0),
            default=seconds,
            help=f"seconds for {what}, at most; default: {seconds}",
        )
    arguments.add_output(parser, "build/sweep")
    arguments.add_search(parser)
    args = parser.parse_args(argv)
    device = arguments.device(args)
    blocks = args.blocks or parse_blocks(BLOCKS[device])
    compiled = args.compiled_shapes
    shapes = list(dict.fromkeys([*itertools.product(args.batches, args.lengths), *compiled]))
    files = find_model(args.model, args.build_dir)
    facts = {"model": files.name, "machine": describe(device, args.threads)}
    options = arguments.runner_options(args) | arguments.search_options(files.family, args)
    measured = Bench(files, shapes, device, args.repeats, args.seconds, options)
    facts["input"] = measured.notes
    print(f"{report.LEGEND}", flush=True)
    sweep = Sweep(measured, facts, args.output, args.deadline)
    for name, precision in blocks:
        compiles = RUNNERS[name][0].compiles
        sweep.block(name, precision, compiled if compiles else shapes, args.block_seconds)
    if not sweep.results["rows"]:
        raise UserError("nothing was measured; see the reasons above")
    sweep.write(drawn=True)
    bad = sum(row["check"] == "Bad" for row in sweep.results["rows"])
    count = len(sweep.results["rows"])
    print(f"\nwrote {args.output}/results.json, .md and plots; {bad} of {count} Bad")
    return 1 if bad else 0


if __name__ == "__main__":
    run(main)
