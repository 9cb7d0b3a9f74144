"""Puts one runner under load from several threads, and holds every row to the same sentence alone.

    python -m trt_code.stress.under_load --runner ort --sentences 1000000 --threads 8

A pool of sentences, of the demo corpus's kinds and lengths, is translated a sentence at a time. Then the
threads draw windows of it at random, batch most of them by length as the translator does and the rest
in any company, and every row must have the tokens that its sentence has alone. The program's own books
do not grow, so what memory grows is the runner's. Before and after, one batch of a fixed shape is
timed. Exit status 1 where something is not as it should be.
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

from train_model.cli import MAX_THREADS, Parser, UserError, atomic_path, number, run, whole_number
from train_model.data.corpora.demo.phrases import KINDS
from train_model.data.corpora.demo.sentences import JOINED_LENGTHS, join
from train_model.data.tokenizer import Tokenizer
from train_model.model_folder import find_model
from trt_code.measure.machine import describe
from trt_code.runners import PRECISIONS, Runner, Unavailable, create, names
from trt_code.stress.batch_neighbours import score_tolerance
from trt_code.text.batching import PAD, by_length, nearest, pad
from trt_code.text.translator import MAX_TOKENS

LARGEST_BATCH = 64
WINDOW = 256  # sentences that a thread draws at a time
MIXED = 0.25  # of the windows are batched in any company, in batches of any size
SHAPE = (16, 32)  # sentences and tokens of the batch that is timed
SAMPLES = 500  # of memory, over all sentences that are asked for
REPORTED = 10  # every so many samples a line
WARM_SHARE = 0.2  # of the samples are warm-up: by then every thread has met its largest batches
GROWTH = 1.05  # more memory than this much of the warm one is a leak
TAIL = 3.0  # times the median that the 99th percentile may take


def sentences(count: int, seed: int) -> list[str]:
    """``count`` different sentences as the demo corpus has them; any split's contents."""
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
    """Sentences and what each gives alone.

    Attributes:
        rows: token ids with both ends.
        tokens: [P, W] int32, pad behind.
        scores: [P, W] float32.
    """

    rows: list[list[int]]
    tokens: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, rows: list[list[int]], runner: Runner, threads: int = 1) -> "Pool":
        """Translate every row in a batch of its own, with one thread or with several."""
        alone: list[Any] = [None] * len(rows)

        def work(number: int) -> None:
            for i in range(number, len(rows), threads):
                alone[i] = runner.run(pad([rows[i]]))

        in_threads(threads, work)
        width = max(output.tokens.shape[1] for output in alone)
        tokens = np.concatenate([_fit(output.tokens, width, PAD) for output in alone])
        scores = np.concatenate([_fit(output.scores, width, 0) for output in alone])
        return cls(rows, tokens.astype(np.int32), scores)

    def batches(self, window: np.ndarray, chance: np.random.Generator) -> Iterator[np.ndarray]:
        """The rows ``window`` in batches, mostly of like length."""
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
            Which of them have other tokens than alone [B], and by how much the scores of the others
            differ at most, in tolerances.
        """
        output = runner.run(pad([self.rows[i] for i in chosen]))
        width = max(self.tokens.shape[1], output.tokens.shape[1])
        tokens, scores = _fit(output.tokens, width, PAD), _fit(output.scores, width, 0)
        expected = _fit(self.scores[chosen], width, 0)
        other = (tokens != _fit(self.tokens[chosen], width, PAD)).any(1)
        off = np.abs(scores - expected).max(1) / score_tolerance(expected)
        return other, float(off[~other].max(initial=0))


def _fit(array: np.ndarray, width: int, fill: int) -> np.ndarray:
    """``array`` [B, T] as [B, width], ``fill`` behind."""
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)


@dataclass
class Books:
    """What the threads found together; of a fixed size however long they run."""

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

    def progress(self) -> str:
        return f"{self.sentences} sentences, {self.other_rows} rows with other tokens than alone"


def load(runner: Runner, pool: Pool, count: int, threads: int, seconds: float) -> Books:
    """Translate ``count`` random sentences of the pool, or as many as ``seconds`` allow.

    Raises:
        Exception: the first that a thread met.
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
                        # so that a run that is stopped from outside leaves its counts as well
                        if len(books.memory) % REPORTED == 0:
                            print(books.progress(), flush=True)
                other, off = pool.differences(chosen, runner)
                with lock:
                    books.other_rows += int(other.sum())
                    books.other_sentences.update(chosen[other].tolist())
                    books.score_off = max(books.score_off, off)

    in_threads(threads, work, failures)
    return books


def in_threads(
    threads: int, work: Callable[[int], None], failures: list[BaseException] | None = None
) -> None:
    """Call ``work`` with each thread's number; raise the first exception that one met."""
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
    """Bytes: resident in this process, and reserved on the GPU by PyTorch's allocator."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    held = {"resident": pages * resource.getpagesize()}
    if device == "cuda":
        import torch

        held["device"] = torch.cuda.memory_reserved()
    return held


def latency(runner: Runner, pool: Pool, passes: int, threads: int) -> dict[str, float]:
    """Time a fixed batch, ``passes`` times in all: milliseconds on the wall clock.

    The processor time of the calling thread stands beside it: on a machine that others use as well
    it has no waiting for them. With a GPU, or several threads in a runner, it says nothing.
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
    """What is not as it should be, in a line each."""
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
        # a contended CPU delays at random; what the runner itself does is in its processor time
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
    parser.add_argument("--build-dir", default="build")
    parser.add_argument("--sentences", type=whole_number(1), default=1_000_000, help="in all")
    parser.add_argument("--pool", type=whole_number(1), default=20_000, help="different ones")
    parser.add_argument(
        "--threads", type=whole_number(1, MAX_THREADS), default=8, help="that call one runner"
    )
    parser.add_argument(
        "--passes", type=whole_number(1), default=1000, help="over the batch that is timed"
    )
    parser.add_argument(
        "--minutes", type=number(0), default=480, help="at most, for the load itself"
    )
    parser.add_argument("--output", type=Path, default=Path("build/load.json"))
    arguments = parser.parse_args(argv)

    files = find_model(arguments.model, arguments.build_dir)
    tokenizer = Tokenizer.from_files(files)
    encoded = [tokenizer.encode(text) for text in sentences(arguments.pool, seed=1)]
    options = {"threads": 1, "build_dir": arguments.build_dir}
    try:
        runner = create(arguments.runner, files, arguments.precision, arguments.device, **options)
    except Unavailable as reason:
        raise UserError(f"{arguments.runner} cannot run here: {reason}") from reason
    with runner:
        rows = [row for row in encoded if len(row) <= (runner.max_source or len(row))]
        pool = Pool.of(rows, runner, arguments.threads)
        print(f"{len(rows)} sentences translated alone", flush=True)
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
