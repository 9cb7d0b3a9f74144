"""Measures translate-corpus on Ray: rows per second and memory, by the number of rows and of actors.

    python -m trt_code.measure.corpora --rows 10000 100000 --workers 2

Translates shards of sentences of the demo's task, or of a file, on a cluster that is started here or on the
one at ``--address``, and compares every row with a ``Translator`` in this process. Prints the table
and writes ``corpora.json`` and ``.md``.
"""

import itertools
import tempfile
from pathlib import Path
from typing import Any

from train_model import ray_cluster
from train_model.cli import Parser, UserError, path_argument, run, whole_number
from train_model.data.files import read_lines, write_lines
from train_model.model_folder import locate
from train_model.tables import Column, Table, as_json, facts, page, write_files
from trt_code import arguments
from trt_code.measure.machine import describe
from trt_code.measure.throughput import generate
from trt_code.text.api import Translator
from trt_code.text.translator import MAX_SENTENCES, MAX_TOKENS

SHARD = 10_000
"""Rows of a shard."""
DISTINCT = 100_000
"""Generated sentences; a larger corpus repeats them."""
START_SECONDS = 600
"""Longest time for the start of all actors."""
SAME = 0.999
"""Smallest share of equal translations: padding to another width can decide a near tie otherwise."""

TABLE = Table(
    [
        Column("rows", "rows", width=9),
        Column("shards", "shards", width=8),
        Column("actors", "actors", width=8),
        Column("seconds", "seconds", ".1f", 9),
        Column("rows/s", "rows_per_s", ".0f", 9),
        Column("per actor", "rows_per_s_and_actor", ".0f", 11),
        Column("rows/CPU s", "rows_per_cpu_s", ".0f", 12),
        Column("actor MB", "peak_mb", ".0f", 10),
        Column("same", "same", ".3%", 10),
    ]
)
NOTE = (
    "Seconds and rows/s are those in which the actors worked, without their start. "
    "Rows/CPU s: by the actors' own processor time, which other programs on the machine do not change. "
    "Actor MB: the largest peak of an actor's resident memory. Same: rows with the translation of one "
    "process."
)


def write_corpus(lines: list[str], rows: int, folder: Path) -> list[str]:
    """Write ``rows`` lines as text shards; returns their names."""
    endless = itertools.cycle(lines)
    names = []
    for first in range(0, rows, SHARD):
        names.append(f"{first:010d}.txt")
        chosen = itertools.islice(endless, min(SHARD, rows - first))
        write_lines(folder / names[-1], chosen)
    return names


def share_of_same(folder: Path, names: list[str], expected: list[str]) -> float:
    """Return the share of rows with the translation of one process."""
    right, same, rows = itertools.cycle(expected), 0, 0
    for name in names:
        for line in read_lines(folder / name):
            same += line.split("\t")[2] == next(right)
            rows += 1
    return same / rows


def measure(
    ray: Any,
    model: str,
    options: dict[str, Any],
    lines: list[str],
    expected: list[str],
    rows: int,
    pool: Any,
) -> dict[str, Any]:
    """Translate a corpus of ``rows`` rows; returns a row of the table.

    Raises:
        UserError: a translation is missing, or too many differ from those of one process.
    """
    # late, since these need what comes with Ray
    from trt_code.corpus import on_ray, storage

    with tempfile.TemporaryDirectory() as folder:
        source, output = (Path(folder) / name for name in ("source", "output"))
        source.mkdir()
        names = write_corpus(lines, rows, source)
        places = (storage.locate(str(place)) for place in (source, output))
        job = on_ray.Job(*places, dict.fromkeys(names, "text"), "text", model, options)
        summary = on_ray.translate(job, names, ray, *pool)
        if summary.rejected or summary.unreadable:
            raise UserError(
                f"{model} refuses sentences of this text; give another model, or a --text that it knows"
            )
        same = share_of_same(output, names, expected)
    if same < SAME:
        raise UserError(f"only {same:.2%} of the translations are those of one process")
    workers = summary.workers.values()
    return {
        "rows": summary.rows,
        "shards": summary.shards,
        "actors": len(workers),
        "seconds": summary.seconds,
        "rows_per_s": summary.rate,
        "rows_per_s_and_actor": summary.rate / len(workers),
        "rows_per_cpu_s": summary.rows / summary.cpu_s,
        "peak_mb": max(peak for _, peak in workers),
        "same": same,
        "rows_of_each_actor": sorted(count for count, _ in workers),
    }


def markdown(results: dict[str, Any]) -> str:
    """Return the whole run as a Markdown page."""
    items = facts(results["machine"] | results["settings"])
    return page(
        f"A corpus on Ray: {results['model']}", items, NOTE, TABLE.markdown(results["rows"])
    )


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(prog="python -m trt_code.measure.corpora", description=__doc__)
    arguments.add_model(parser)
    arguments.add_device(parser)
    arguments.add_count(parser, "--threads", 1, "processors of an actor", arguments.MAX_THREADS)
    arguments.add_runner(parser)
    arguments.add_batching(parser, MAX_TOKENS, MAX_SENTENCES)
    parser.add_argument(
        "--rows",
        nargs="+",
        type=whole_number(1),
        default=[10_000, 100_000],
        metavar="N",
        help="sizes of the corpus, one run each; default: 10000 100000",
    )
    parser.add_argument(
        "--text",
        type=path_argument,
        help="a file with one sentence per line; default: generated ones",
    )
    arguments.add_output(parser, "build/corpora")
    ray_cluster.add_arguments(parser)
    parser.set_defaults(build_dir=None)
    args = parser.parse_args(argv)
    model = str(locate(args.model))
    device = arguments.device(args)
    options = {
        "runner": args.runner,
        "precision": args.precision,
        "device": device,
        "threads": args.threads,
        "max_tokens": args.max_tokens,
        "max_sentences": args.max_sentences,
        "build_dir": args.build_dir and str(args.build_dir.resolve()),
        "unknown": "keep",
        "too_long": "cut",
    }
    lines = list(read_lines(args.text)) if args.text else generate(min(DISTINCT, max(args.rows)))
    # This also exports the model, so that no actor does it: that takes far more memory than translating.
    with Translator(model, **options) as translator:
        expected = [found.text for found in translator.translations(lines)]  # as an actor does
        runner = translator.runner
    results: dict[str, Any] = {
        "model": args.model,
        "machine": describe(device, args.threads),
        "settings": {
            "runner": f"{runner} {args.precision} ({device})",
            "batch": f"{args.max_tokens} tokens, {args.max_sentences} sentences at most",
        },
        "rows": [],
    }
    with ray_cluster.connected(args.address) as ray:
        # otherwise the first actor works alone until the others have loaded the model
        ray.data.DataContext.get_current().wait_for_min_actors_s = START_SECONDS
        pool = ray_cluster.pool(ray, device, args.workers, args.threads, args.gpus_per_worker)
        print(f"{results['settings']['runner']}\n\n{TABLE.head()}", flush=True)
        for count in args.rows:
            row = measure(ray, model, options, lines, expected, count, pool)
            results["rows"].append(row)
            print(TABLE.line(row), flush=True)
            # after every size, so that a run that ends early keeps the sizes before
            pages = {"corpora.json": as_json(results), "corpora.md": markdown(results)}
            write_files(args.output, pages)
    print(f"\nwrote {args.output}/corpora.json and .md")


if __name__ == "__main__":
    run(main)
