"""Measures latency and agreement of every runner that this machine can run (``make bench``).

Every row is first compared with PyTorch FP32 on the same batch and is timed only if it agrees. The
input of each shape is the test sentences with that number of tokens, or with the nearest lower number; a
model without text gets random tokens. Writes ``results.json``, ``.md``
and ``.png``. Exit status 1 if a check is Bad; 2, and nothing is written, if no runner can run.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from train_model.cli import Parser, UserError, number, one_line, run
from train_model.data.dictionary import BOS, EOS, SPECIALS
from train_model.data.files import read_lines
from train_model.data.tokenizer import Tokenizer, normalise
from train_model.model_folder import ModelFolder, find_model
from trt_code import arguments, report
from trt_code.measure import layer_precision
from trt_code.measure.agreement import Agreement, compare, verdict
from trt_code.measure.machine import describe
from trt_code.runners import Runner, Unavailable, create
from trt_code.runners.timing import wall_ms
from trt_code.text import batching

DEFAULT_SHAPES = "1x8,1x32,16x8,16x32"
LEAST_REPEATS = 3
# The results in a row, besides its name, shape and check. Times are in milliseconds, each with its 95th
# percentile. make_ms is the time to make the runner. first_ms is its first pass on a shape, with all the
# setup that this needs. Their sum is the time to a first result.
RESULTS = ("lt", "lt_p95", "ht", "ht_p95", "make_ms", "first_ms", "tp", "sentences_per_s")
RESULTS += ("acc", "a0", "r0", "path", "peak_memory_bytes")


def text_batch(rows: list[list[int]], batch: int, length: int) -> tuple[np.ndarray, str]:
    """A [batch, length] array of encoded sentences, and a line that says which ones were taken.

    Raises:
        UserError: no sentence is that short.
    """
    chosen = batching.nearest([len(row) for row in rows], length, batch)
    if not chosen:
        shortest = min(map(len, rows))
        raise UserError(f"no test sentence has {length} tokens or fewer; the shortest: {shortest}")
    lengths = [len(rows[i]) for i in chosen]
    kinds = len(set(chosen))
    repeated = f" ({kinds} different)" if kinds < batch else ""
    filled = sum(lengths) / (batch * length)
    note = (
        f"{batch}x{length}: test sentences of {min(lengths)} to {max(lengths)} tokens{repeated}, "
        f"{filled:.0%} of the batch is text"
    )
    return batching.pad([rows[i] for i in chosen], length), note


def random_batch(vocabulary: int, batch: int, length: int) -> tuple[np.ndarray, str]:
    """A full [batch, length] array of seeded random tokens between both ends, and a line on it."""
    generator = np.random.default_rng([batch, length])
    tokens = generator.integers(len(SPECIALS), vocabulary, (batch, length))
    tokens[:, 0], tokens[:, -1] = BOS, EOS
    return tokens, f"{batch}x{length}: random tokens, no padding"


class Bench:
    """One run: the inputs, what PyTorch FP32 gives for them, and the measuring of a runner.

    Args:
        files: the model.
        shapes: (batch, source length) pairs.
        device: "cpu" or "cuda".
        repeats: the largest number of timed passes per row.
        seconds: a row with slow passes gets fewer of them to stay within this time, but at least 3.
        options: passed on to ``runners.create``.
    """

    def __init__(
        self,
        files: ModelFolder,
        shapes: list[tuple[int, int]],
        device: str,
        repeats: int,
        seconds: float,
        options: dict[str, Any],
    ):
        self._files, self._device, self._options = files, device, options
        self._repeats, self._seconds = repeats, seconds
        try:
            reference = self.create("torch", "fp32")
        except Unavailable as reason:
            raise UserError(f"the reference cannot run: {reason}") from None
        with reference:
            self._inputs, self.notes = make_inputs(files, shapes, reference.config)
            self._expected = [reference.run(tokens) for tokens in self._inputs]
        self._torch_agreements: dict[str, list[Agreement] | None] = {}

    def create(self, runner: str, precision: str) -> Runner:
        """Make a runner for this model and device; raises ``Unavailable`` as ``runners.create``."""
        return create(runner, self._files, precision, self._device, **self._options)

    @staticmethod
    def precision_note(runner: Runner) -> str | None:
        """Which products ran in INT8, or None if the runner cannot report it."""
        file = runner.int8_report
        if runner.precision != "int8" or file is None or not file.is_file():
            return None
        products = layer_precision.products(file)
        command = f"python -m trt_code.measure.layer_precision {file}"
        return f"{layer_precision.summary(products)} ({command})"

    def rows(
        self, runner: Runner, shapes: Collection[tuple[int, int]] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Measure one runner on every shape, or on some of them."""
        for index, tokens in enumerate(self._inputs):
            if shapes is not None and tokens.shape not in shapes:
                continue
            row = empty_row(runner.name, runner.precision, runner.device, *tokens.shape)
            row["make_ms"] = runner.make_ms
            try:
                self._measure(runner, index, row)
            except Exception as error:  # a runner that fails is a result; the run continues
                row["check"] = "Bad"
                row["reason"] = one_line(f"{type(error).__name__}: {error}")
            yield row

    def _measure(self, runner: Runner, index: int, row: dict[str, Any]) -> None:
        tokens = self._inputs[index]
        start = time.perf_counter()
        output = runner.run(tokens)
        row["first_ms"] = (time.perf_counter() - start) * 1e3
        if (runner.name, runner.precision) == ("torch", "fp32"):
            row["check"] = "reference"
        else:
            agreement = compare(output, self._expected[index])
            # PyTorch has no FP8 network; INT8 has as many bits
            yardstick = "int8" if runner.precision == "fp8" else runner.precision
            row["acc"], row["a0"] = agreement.tokens, agreement.absolute
            row["r0"], row["path"] = agreement.relative, agreement.path
            row["check"] = verdict(
                agreement,
                runner.name,
                yardstick,
                lambda: self._torch_agreement(yardstick, index),
            )
        if row["check"] == "Bad":
            row["reason"] = "not timed"
            return
        affordable = int(self._seconds * 1e3 / wall_ms(lambda: runner.run(tokens)))
        timing = runner.time(tokens, min(self._repeats, max(LEAST_REPEATS, affordable)))
        row["lt"], row["lt_p95"] = _median_and_p95(timing.device_ms)
        row["ht"], row["ht_p95"] = _median_and_p95(timing.host_ms)
        row["tp"] = tokens.size / row["lt"] * 1e3
        row["sentences_per_s"] = len(tokens) / row["ht"] * 1e3
        row["peak_memory_bytes"] = runner.peak_memory()

    def _torch_agreement(self, precision: str, index: int) -> Agreement | None:
        if precision not in self._torch_agreements:
            try:
                with self.create("torch", precision) as runner:
                    pairs = zip(self._inputs, self._expected, strict=True)
                    agreements = [compare(runner.run(tokens), output) for tokens, output in pairs]
            except Unavailable:
                agreements = None
            self._torch_agreements[precision] = agreements
        agreements = self._torch_agreements[precision]
        return agreements and agreements[index]


def empty_row(runner: str, precision: str, device: str, batch: int, length: int) -> dict[str, Any]:
    """A row with its name and no results yet; the keys are those of the JSON."""
    row: dict[str, Any] = {"runner": runner, "precision": precision, "device": device}
    row |= {"bs": batch, "sl": length}
    return row | dict.fromkeys(RESULTS) | {"check": "", "reason": ""}


def _median_and_p95(milliseconds: list[float]) -> tuple[float, float]:
    return statistics.median(milliseconds), float(np.percentile(milliseconds, 95))


def make_inputs(
    files: ModelFolder, shapes: list[tuple[int, int]], config: Any
) -> tuple[list[np.ndarray], list[str]]:
    """Return one [B, S] int64 array per shape, and one line on the content of each.

    Raises:
        UserError: a shape is longer than the model's positions or shorter than every sentence, or there is
            no sentence.
    """
    longest = config.max_source_positions
    for batch, length in shapes:
        if length > longest:
            raise UserError(f"shape {batch}x{length}: {files.name} has {longest} positions")
    if files.test_src is None:
        made = [random_batch(config.src_vocab, *shape) for shape in shapes]
    else:
        tokenizer = Tokenizer.from_files(files)
        rows = [tokenizer.encode(line) for line in read_lines(files.test_src) if normalise(line)]
        if not rows:
            raise UserError(f"{files.test_src} has no sentence in it; get the model's files again")
        made = [text_batch(rows, *shape) for shape in shapes]
    return [tokens for tokens, _ in made], [note for _, note in made]


def bench(run: Bench, runners: list[str], precisions: list[str]) -> tuple[list, list]:
    """Measure and print every block; return the rows, and a name and a reason for each runner left out."""
    rows, not_run = [], []
    for name, precision in itertools.product(runners, precisions):
        title = f"{name} {precision}"
        try:
            runner = run.create(name, precision)
        except Unavailable as reason:
            not_run.append({"name": title, "reason": str(reason)})
            print(f"\n{title}: {reason.row}")
            continue
        print(f"\n{title} ({runner.device})\n{report.text_head()}", flush=True)
        with runner:
            for row in run.rows(runner):
                rows.append(row)
                print(report.text_row(row), flush=True)
        note = run.precision_note(runner)
        if note:
            print(note, flush=True)
    return rows, not_run


def add_repeats(parser: argparse.ArgumentParser, repeats: int, seconds: float) -> None:
    """Add ``--repeats`` and ``--seconds``, which bound the timed passes of a row."""
    arguments.add_count(parser, "--repeats", repeats, "timed passes of a row, at most")
    parser.add_argument(
        "--seconds",
        type=number(0),
        default=seconds,
        help=f"for the passes of a row; at least {LEAST_REPEATS} run; default: {seconds:g}",
    )


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m trt_code.bench", description=__doc__)
    arguments.add_model(parser)
    arguments.add_machine(parser)
    arguments.add_runners(parser, "fp32,tf32,fp16", rivals=True)
    arguments.add_shapes(parser, "--shape", DEFAULT_SHAPES)
    add_repeats(parser, repeats=30, seconds=3)
    arguments.add_output(parser, "build/bench")
    arguments.add_search(parser)
    args = parser.parse_args(argv)
    device = arguments.device(args)
    files = find_model(args.model, args.build_dir)
    machine = describe(device, args.threads)
    options = arguments.runner_options(args) | arguments.search_options(files.family, args)
    measured = Bench(files, args.shape, device, args.repeats, args.seconds, options)
    for name, text in [*machine.items(), *(("input", note) for note in measured.notes)]:
        print(f"{name + ':':<10}{text}")
    print(f"\n{report.LEGEND}")
    rows, not_run = bench(measured, args.runner, args.precision)
    if not rows:
        raise UserError("none of the runners can run here; see the reasons above")
    results = {"model": files.name, "machine": machine, "input": measured.notes}
    results |= {"rows": rows, "not_run": not_run}
    report.write(results, args.output)
    bad = sum(row["check"] == "Bad" for row in results["rows"])
    print(f"\nwrote {args.output}/results.json, .md and .png; {bad} of {len(results['rows'])} Bad")
    return 1 if bad else 0


if __name__ == "__main__":
    run(main)
