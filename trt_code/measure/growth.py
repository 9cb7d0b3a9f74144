"""Measures how the time of a batch on a CPU grows with batch, length, width and threads.

    python -m trt_code.measure.growth --model demo,demo-ar

One of the four changes at a time. The others stay at 16 sentences of 32 tokens, the model's own width, and
all processors. The networks have the model's layers; those of another width have random weights. Each
translation is as long as its source, and a search is greedy. The tokens of the native runner and of PyTorch
are compared first; then each is timed, one after the other. In INT8 the ranges are those of random sources:
only its speed counts. Writes ``build/growth/results.json``, ``.md`` and ``.png``.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train_model import plots
from train_model.cli import Parser, UserError, first_line, run
from train_model.data.dictionary import EOS, SPECIALS
from train_model.model_folder import find_model
from train_model.models.beam_search import search as torch_search
from train_model.models.checkpoint import load_checkpoint
from train_model.models.hypotheses import SearchOptions
from train_model.models.incremental import IncrementalDecoder
from train_model.progress import task
from train_model.tables import Column, Table, as_json, facts, page, write_files
from trt_code import arguments
from trt_code.devices import processors
from trt_code.measure.forced_length import Options, in_int8
from trt_code.measure.machine import describe, machine_name
from trt_code.native import library, search, translation
from trt_code.native.export import to_program
from trt_code.native.program import SUFFIX, LoadedProgram
from trt_code.runners.timing import wall_ms

BATCH, LENGTH = 16, 32
MAX_WIDTH = 4096  # such a network has gigabytes of weights
AXES = ("batch", "length", "width", "threads")
PAUSE = 0.3  # seconds in which PyTorch's idle threads stop looking for work
AGREE = 0.99  # share of equal tokens; random weights leave near ties
Translate = Callable[[np.ndarray, int], np.ndarray]
"""Translates source tokens [B, S] with a number of threads into B translations of S tokens."""
TABLE = Table(
    [
        Column("model", "model", width=12, left=True),
        Column("changed", "axis", width=8, left=True),
        Column("value", "value"),
        Column("native, ms", "native", ".2f", width=11),
        Column("native INT8, ms", "int8", ".2f", width=16),
        Column("PyTorch, ms", "torch", ".2f", width=11),
    ]
)


def resized(config: Any, width: int) -> Any:
    """Return the network's configuration with ``width`` channels; the inner layers grow alike."""
    factor = width / config.encoder_embed_dim
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name.endswith("_embed_dim") and value:
            changed[field.name] = int(value * factor)
        elif field.name.endswith("_branch_type"):
            parts = [branch.split(":") for branch in value]
            for branch in parts:
                branch[2] = str(int(int(branch[2]) * factor))
            changed[field.name] = tuple(map(":".join, parts))
    return dataclasses.replace(config, **changed)


def systems(model: Any, one_pass: bool, folder: Path) -> dict[str, Translate]:
    """Return the network in ``native``, also in INT8 if nvidia-modelopt is installed, and in PyTorch."""
    path = folder / f"model{SUFFIX}"

    def load(network: Any) -> LoadedProgram:
        to_program(network).save(path)
        return LoadedProgram(library.load(), path)

    def options(sources: np.ndarray) -> SearchOptions:
        return Options(sources.shape[1] - 1)(beam=1)

    def native(program: LoadedProgram, sources: np.ndarray, threads: int) -> np.ndarray:
        if one_pass:
            lengths = np.full(len(sources), sources.shape[1])
            return translation.translate(program, sources, threads, lengths)[0]
        return search.search(program, sources, options(sources), threads).tokens[:, 0]

    def in_torch(sources: np.ndarray, threads: int) -> np.ndarray:
        torch.set_num_threads(threads)
        tokens = torch.from_numpy(sources)
        with torch.inference_mode():
            if not one_pass:
                found = torch_search(IncrementalDecoder.of(model), tokens, options(sources))
                return found.tokens[:, 0]
            state = model.encode(tokens)
            lengths = torch.full((len(sources),), sources.shape[1])
            canvas = model.initial_canvas(lengths, sources.shape[1])
            return model.choose(model.decode(canvas, state), canvas)[0].numpy()

    found = {"native": functools.partial(native, load(model)), "torch": in_torch}
    with contextlib.suppress(UserError):  # no nvidia-modelopt
        found["int8"] = functools.partial(native, load(in_int8(model)))
    return found


def time_each(
    measured: dict[str, Translate], sources: np.ndarray, threads: int, repeats: int
) -> dict[str, float]:
    """Return the median milliseconds of each system.

    Raises:
        UserError: their tokens differ.
    """
    native, in_torch = (measured[name](sources, threads) for name in ("native", "torch"))
    if np.mean(native == in_torch) < AGREE:
        raise UserError(f"the native runner and PyTorch differ at {sources.shape}")
    medians = {}
    for name, translate in measured.items():
        time.sleep(PAUSE)
        translate(sources, threads)
        times = [
            wall_ms(lambda translate=translate: translate(sources, threads)) for _ in range(repeats)
        ]
        medians[name] = float(np.median(times))
    return medians


def measure(args: argparse.Namespace, name: str, folder: Path) -> list[dict[str, Any]]:
    """Measure one model along every axis.

    Raises:
        UserError: the model has no native form, or the systems differ.
    """
    files = find_model(name)
    trained = load_checkpoint(files.checkpoint).model.eval()
    own, rng = trained.config.encoder_embed_dim, np.random.default_rng(1)
    base = {"batch": BATCH, "length": LENGTH, "width": own, "threads": processors()}
    values = {axis: sorted({*getattr(args, axis)}) for axis in AXES}
    rows, made = [], {own: systems(trained, not files.autoregressive, folder)}
    points = [(axis, value) for axis in AXES for value in values[axis]]
    with task(f"measuring {name}", len(points), "points") as shown:
        for done, (axis, value) in enumerate(points, 1):
            at = base | {axis: value}
            if at["width"] not in made:
                torch.manual_seed(0)
                try:
                    other = type(trained)(resized(trained.config, at["width"])).eval()
                except ValueError as error:  # as many channels do not make a network
                    raise UserError(f"--width {at['width']}: {error}") from error
                made[at["width"]] = systems(other, not files.autoregressive, folder)
            shape = at["batch"], at["length"]
            sources = rng.integers(len(SPECIALS), trained.config.src_vocab, shape)
            sources[:, -1] = EOS
            times = time_each(made[at["width"]], sources, at["threads"], args.repeats)
            rows.append({"model": name, "axis": axis, "value": value, "int8": None, **times})
            shown.reach(done)
    return rows


def plot(results: dict[str, Any], path: Path) -> None:
    """Plot time along each axis, one line for each model and system, as a PNG at ``path``."""
    models = list(dict.fromkeys(row["model"] for row in results["rows"]))
    panels = []
    for axis in AXES:
        series = {}
        for model, (system, title) in itertools.product(
            models, (("native", "native"), ("int8", "native INT8"), ("torch", "PyTorch"))
        ):
            points = [
                (row["value"], row[system])
                for row in results["rows"]
                if (row["model"], row["axis"]) == (model, axis) and row[system] is not None
            ]
            if points:
                series[f"{model}, {title}"] = points
        panels.append(plots.Panel(axis, series))
    title = machine_name(results["machine"])
    plots.lines(path, title, [("", panels)], "value", "time of a batch, ms")


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = Parser(description=first_line(__doc__))
    parser.add_argument("--model", default="demo,demo-ar", help="names of models, comma-separated")
    threads = ",".join(str(2**i) for i in range(processors().bit_length()))
    for axis, sizes, meaning, most in (
        ("batch", "1,2,4,8,16,32,64", "sentences in a batch", arguments.MAX_SIZE),
        ("length", "8,16,32,64,128", "tokens of a sentence", arguments.MAX_SIZE),
        ("width", "64,128,256,512", "channels of the network", MAX_WIDTH),
        ("threads", threads, "threads", arguments.MAX_THREADS),
    ):
        arguments.add_sizes(parser, f"--{axis}", sizes, meaning, most)
    arguments.add_count(parser, "--repeats", 5, "timed batches of each point")
    arguments.add_output(parser, "build/growth")
    args = parser.parse_args(argv)
    rows = []
    for name in args.model.split(","):
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(args, name, Path(folder))
    results = {"machine": describe("cpu", processors()), "rows": rows}
    title = "Growth of the time of a batch"
    write_files(
        args.output,
        {
            "results.json": as_json(results),
            "results.md": page(title, facts(results["machine"]), "", TABLE.markdown(rows)),
            "results.png": functools.partial(plot, results),
        },
    )
    print(TABLE.head(), *map(TABLE.line, rows), sep="\n")
    print(f"\nwrote {args.output}/results.json, .md and .png")
    return 0


if __name__ == "__main__":
    run(main)
