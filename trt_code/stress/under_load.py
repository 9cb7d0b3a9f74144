"""Loads one runner from several threads, and compares every row with the same sentence alone.

    python -m trt_code.stress.under_load --runner ort --sentences 1000000 --threads 8

First, a pool of sentences like the demo corpus is translated one by one. Then the threads draw random
windows of the pool. They batch most windows by length, as the translator does, and the others at random.
Every row must have the same tokens as its sentence alone. The program itself allocates a fixed amount of
memory, so any growth belongs to the runner. Before and after, a batch of a fixed shape is timed. Exit
status 1 if a check fails.
"""

import json
import random
import resource
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from train_model.cli import (
    MAX_THREADS,
    Parser,
    UserError,
    add_count,
    atomic_path,
    check_output,
    number,
    path_argument,
    run,
)
from train_model.data.corpora.demo.phrases import KINDS
from train_model.data.corpora.demo.sentences import JOINED_LENGTHS, join
from train_model.data.tokenizer import Tokenizer
from train_model.model_folder import find_model
from train_model.progress import stage, task
from trt_code.arguments import MAX_LINES, add_engine, engine_options
from trt_code.measure.machine import describe
from trt_code.runners import PRECISIONS, Runner, Unavailable, create, names
from trt_code.runners.base import widen
from trt_code.stress.batch_neighbours import score_tolerance
from trt_code.text.batching import by_length, nearest, pad
from trt_code.text.translator import MAX_TOKENS

LARGEST_BATCH = 64
WINDOW = 256  # sentences that a thread draws at a time
MIXED = 0.25  # share of windows in batches of random sentences and size
SHAPE = (16, 32)  # sentences and tokens of the batch that is timed
SAMPLES = 500  # of memory, over the whole run
WARM_SHARE = 0.2  # of the samples are warm-up: by then every thread has met its largest batches
GROWTH = 1.05  # more than this factor over the warm memory is a leak
TAIL = 3.0  # times the median that the 99th percentile may take


def sentences(count: int, seed: int) -> list[str]:
    """Return ``count`` different sentences like those of the demo corpus; they may occur in any split."""
    chance = random.Random(seed)
    kinds, weights = list(KINDS), list(KINDS.values())
    joined, shares = list(JOINED_LENGTHS), list(JOINED_LENGTHS.values())
    found: dict[str, None] = {}
    while len(found) < count:
        phrases = [
            chance.choices(kinds, weights)[0](chance)
            for _ in range(chance.choices(joined, shares)[0])
        ]
        found[join(phrases, chance).source] = None
    return list(found)


@dataclass
class Pool:
    """Sentences and the results of each alone.

    Attributes:
        rows: token ids with bos and eos.
        tokens: [P, W] int32, padded on the right.
        scores: [P, W] float32.
    """

    rows: list[list[int]]
    tokens: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, rows: list[list[int]], runner: Runner, threads: int = 1) -> "Pool":
        """Translate every row in a separate batch, with one or more threads."""
        alone: list[Any] = [None] * len(rows)

        def work(number: int) -> None:
            for i in range(number, len(rows), threads):
                alone[i] = runner.run(pad([rows[i]]))

        in_threads(threads, work)
        width = max(output.tokens.shape[1] for output in alone)
        tokens = np.concatenate([widen(output.tokens, width) for output in alone])
        scores = np.concatenate([widen(output.scores, width, 0) for output in alone])
        return cls(rows, tokens.astype(np.int32), scores)

    def batches(self, window: np.ndarray, chance: np.random.Generator) -> Iterator[np.ndarray]:
        """Return the rows ``window`` in batches, mostly of similar length."""
        if chance.random() < MIXED:
            cuts = np.cumsum(chance.integers(1, LARGEST_BATCH + 1, len(window)))
            yield from filter(len, np.split(window, cuts[cuts < len(window)]))
        else:
            lengths = [len(self.rows[i]) for i in window]
            for batch in by_length(lengths, MAX_TOKENS, LARGEST_BATCH):
                yield window[batch]

    def differences(self, chosen: np.ndarray, runner: Runner) -> tuple[np.ndarray, float]:
        """Translate the rows ``chosen`` together.

        Returns:
            Which of them have other tokens than alone [B], and the largest difference of the others' scores,
            in units of the tolerance.
        """
        output = runner.run(pad([self.rows[i] for i in chosen]))
        width = max(self.tokens.shape[1], output.tokens.shape[1])
        tokens, scores = widen(output.tokens, width), widen(output.scores, width, 0)
        expected = widen(self.scores[chosen], width, 0)
        other = (tokens != widen(self.tokens[chosen], width)).any(1)
        off = np.abs(scores - expected).max(1) / score_tolerance(expected)
        return other, float(off[~other].max(initial=0))


@dataclass
class Books:
    """The results of all threads; its size does not depend on the length of the run."""

    sentences: int = 0
    batches: int = 0
    other_rows: int = 0
    other_sentences: set[int] = field(default_factory=set)
    score_off: float = 0.0
    per_thread: dict[int, int] = field(default_factory=dict)
    memory: list[dict[str, int]] = field(default_factory=list)

    def add(self, thread: int, sentences: int) -> None:
        self.sentences += sentences
        self.batches += 1
        self.per_thread[thread] = self.per_thread.get(thread, 0) + sentences


def load(runner: Runner, pool: Pool, count: int, threads: int, seconds: float) -> Books:
    """Translate ``count`` random sentences of the pool, or fewer if ``seconds`` end first.

    Raises:
        Exception: the first exception in a thread.
    """
    books, lock = Books(), threading.Lock()
    failures: list[BaseException] = []
    end = time.monotonic() + seconds

    def work(number: int) -> None:
        chance = np.random.default_rng(number)
        while True:
            window = chance.integers(0, len(pool.rows), WINDOW)
            for chosen in pool.batches(window, chance):
                with lock:
                    if failures or books.sentences >= count or time.monotonic() > end:
                        return
                    before = books.sentences
                    books.add(number, len(chosen))
                    if before * SAMPLES // count < books.sentences * SAMPLES // count:
                        sample = memory(runner.device)
                        books.memory.append({"sentences": books.sentences, **sample})
                other, off = pool.differences(chosen, runner)
                with lock:
                    books.other_rows += int(other.sum())
                    books.other_sentences.update(chosen[other].tolist())
                    books.score_off = max(books.score_off, off)
                    # shown while it runs, so that an interrupted run has reported its counts too
                    shown.description = f"{books.other_rows} rows with other tokens than alone, of"
                    shown.reach(books.sentences)

    with task("translating", count, "sentences") as shown:
        in_threads(threads, work, failures)
    return books


def in_threads(
    threads: int, work: Callable[[int], None], failures: list[BaseException] | None = None
) -> None:
    """Call ``work`` with each thread's number; raise the first exception of a thread."""
    failures = [] if failures is None else failures

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as failure:
            failures.append(failure)

    started = [threading.Thread(target=guarded, args=(n,)) for n in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    if failures:
        raise failures[0]


def memory(device: str) -> dict[str, int]:
    """Return the bytes resident in this process, and reserved on the GPU by PyTorch's allocator."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    held = {"resident": pages * resource.getpagesize()}
    if device == "cuda":
        import torch

        held["device"] = torch.cuda.memory_reserved()
    return held


def latency(runner: Runner, pool: Pool, passes: int, threads: int) -> dict[str, float]:
    """Time a fixed batch ``passes`` times; return milliseconds of wall-clock and of processor time.

    The processor time is that of the calling thread. On a shared machine it leaves out the waiting for
    other programs. With a GPU, or with several threads in a runner, it is not meaningful.
    """
    lengths = [len(row) for row in pool.rows]
    width = min(SHAPE[1], runner.max_source or SHAPE[1])
    batch = pad([pool.rows[i] for i in nearest(lengths, width, SHAPE[0])], width)
    wall: list[float] = []
    processor: list[float] = []

    def work(number: int) -> None:
        for i in range(-3, passes // threads):
            start, busy = time.perf_counter(), time.thread_time()
            runner.run(batch)
            if i >= 0:
                wall.append((time.perf_counter() - start) * 1e3)
                processor.append((time.thread_time() - busy) * 1e3)

    in_threads(threads, work)
    found = {"threads": threads, "passes": len(wall)}
    for name, times in (("ms", wall), ("processor_ms", processor)):
        p50, p99 = np.percentile(times, [50, 99]).tolist()
        found |= {f"p50_{name}": round(p50, 3), f"p99_{name}": round(p99, 3)}
    return found


def faults(results: dict[str, Any]) -> list[str]:
    """Return the failed checks, one line each."""
    found = []
    if results["other_rows"]:
        found.append(f"{results['other_rows']} rows have other tokens than alone")
    if results["precision"] == "fp32" and results["score_off_tolerances"] > 1:
        found.append(f"a score is off by {results['score_off_tolerances']} tolerances")
    samples = results["memory"]
    end = int(WARM_SHARE * len(samples))
    warm, rest = samples[:end], samples[end:]
    for kind in ("resident", "device"):
        if warm and kind in warm[0]:
            before, after = (max(sample[kind] for sample in part) for part in (warm, rest))
            if after > GROWTH * before:
                found.append(f"{kind} memory grew from {before >> 20} to {after >> 20} MiB")
    for timed in results["latency"]:
        # a busy CPU delays at random; the runner's own work shows in its processor time
        clock = "ms" if results["device"] == "cuda" else "processor_ms"
        if timed[f"p99_{clock}"] > TAIL * timed[f"p50_{clock}"]:
            found.append(f"p99 is more than {TAIL} times p50 with {timed['threads']} threads")
    return found


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m trt_code.stress.under_load", description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--runner", choices=names(), default="ort")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--build-dir", type=path_argument, default="build")
    add_count(parser, "--sentences", 1_000_000, "sentences in all")
    add_count(parser, "--pool", 20_000, "different sentences", MAX_LINES)
    add_count(parser, "--threads", 8, "threads that call one runner", MAX_THREADS)
    add_count(parser, "--passes", 1000, "passes over the batch that is timed")
    parser.add_argument(
        "--minutes", type=number(0), default=480, help="at most, for the load itself"
    )
    parser.add_argument("--output", type=path_argument, default=Path("build/load.json"))
    add_engine(parser)
    arguments = parser.parse_args(argv)
    check_output(arguments.output)

    files = find_model(arguments.model, arguments.build_dir)
    tokenizer = Tokenizer.from_files(files)
    encoded = [tokenizer.encode(text) for text in sentences(arguments.pool, seed=1)]
    options = {"threads": 1, "build_dir": arguments.build_dir, **engine_options(arguments)}
    try:
        runner = create(arguments.runner, files, arguments.precision, arguments.device, **options)
    except Unavailable as reason:
        raise UserError(f"{arguments.runner} cannot run here: {reason}") from reason
    with runner:
        rows = [row for row in encoded if len(row) <= (runner.max_source or len(row))]
        with stage(f"translating {len(rows)} sentences alone"):
            pool = Pool.of(rows, runner, arguments.threads)
        timed = [latency(runner, pool, arguments.passes, 1)]
        start = time.monotonic()
        seconds = 60 * arguments.minutes
        books = load(runner, pool, arguments.sentences, arguments.threads, seconds)
        seconds = time.monotonic() - start
        timed += [latency(runner, pool, arguments.passes, n) for n in (1, arguments.threads)]
    results = {
        "machine": describe(arguments.device, 1),
        "model": files.name,
        "runner": arguments.runner,
        "precision": arguments.precision,
        "device": arguments.device,
        "pool": len(rows),
        "sentences": books.sentences,
        "batches": books.batches,
        "seconds": round(seconds, 1),
        "other_rows": books.other_rows,
        "other_sentences": len(books.other_sentences),
        "score_off_tolerances": round(books.score_off, 3),
        "per_thread": list(books.per_thread.values()),
        "latency": timed,
        "memory": books.memory,
    }
    results["faults"] = faults(results)
    with atomic_path(arguments.output) as path:
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, value in results.items():
        if name not in ("machine", "memory"):
            print(f"{name}: {value}")
    return 1 if results["faults"] else 0


if __name__ == "__main__":
    run(main)
