"""Translates files of many lines with all stages at work at the same time.

Processes encode and decode text while threads keep one runner each busy; with two runners the copies of
one overlap with the other's work on the device. Lines are sorted by length within a window, so that
batches have little padding and an endless input needs bounded memory. The runners always have the next
window waiting: they do not stop while the calling thread reads and writes.
"""

import collections
import concurrent.futures
import gc
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np

from train_model.cli import UserError
from train_model.data.files import take
from train_model.models.hypotheses import Found
from train_model.processes import SPAWN
from trt_code.runners import Runner
from trt_code.text import batching
from trt_code.text.codec import Codec, Note, Translation, annotate
from trt_code.text.translator import run_batch

MAX_TOKENS = {"cpu": 4096, "cuda": 8192}
MAX_SENTENCES = 256
"""The default bounds of a batch. Small batches of a small network leave a GPU waiting for the host."""
WINDOW = 8192
AHEAD = 2
"""Windows that are encoded, and windows that are translated and decoded, at the same time."""
CHUNK = 2048
"""Lines that a process encodes at a time: a task costs the main process some 0.3 ms, whatever its size."""
GROUP = 2048
"""Sentences after which the batches of a runner go to a process that decodes them."""


class Window(NamedTuple):
    """The translations of consecutive lines, in their order.

    Attributes:
        lines: the sources.
        texts: the best translation of each; empty for a line that is refused or has no text.
        tokens: the number of each, see ``Translation``.
        others: by index, the translations that have more than this: hypotheses, an error or a warning.
    """

    lines: list[str]
    texts: list[str]
    tokens: list[int]
    others: dict[int, Translation]

    def translations(self) -> Iterator[Translation]:
        """Yield all translations."""
        for index, plain in enumerate(zip(self.texts, self.tokens, strict=True)):
            yield self.others.get(index) or Translation(*plain)


class _Decoding(NamedTuple):
    """Batches that a process decodes.

    Attributes:
        indices: of their lines in the window.
        tokens: the number of each translation; None if the translations have them.
        texts: the result of ``_decode_texts``, or of ``_decode`` if ``tokens`` is None.
    """

    indices: list[int]
    tokens: list[int] | None
    texts: concurrent.futures.Future


class _Running(NamedTuple):
    """A window with the runners. The result of each job is a ``_Decoding``."""

    lines: list[str]
    notes: dict[int, Note]
    jobs: list[concurrent.futures.Future]


@dataclass
class Spent:
    """The counts of a run, and the time of its stages in seconds.

    Attributes:
        network: inside the runners, summed over them.
        encode, decode: of the processes, summed over them.
        source_tokens, target_tokens: with bos and eos, without padding.
        padded_tokens: source tokens with padding, as the network saw them.
    """

    wall: float = 0.0
    network: float = 0.0
    encode: float = 0.0
    decode: float = 0.0
    sentences: int = 0
    batches: int = 0
    source_tokens: int = 0
    target_tokens: int = 0
    padded_tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **amounts: float) -> None:
        """Add to the sums, from any thread."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)


class Pipeline:
    """Translates lines as ``LineTranslator`` does, in the order given. Use it as a context manager.

    Args:
        pool: the result of ``start_processes``; the pipeline closes it.
        runners: they are used by one thread each and stay the caller's.
        max_tokens, max_sentences: bounds of a batch, padding included.
        n_best: hypotheses with scores for each line; 0 gives only the text.
        done: called with the number of lines finished, after every batch and from any thread.
    """

    def __init__(
        self,
        pool: concurrent.futures.Executor,
        runners: Sequence[Runner],
        max_tokens: int,
        max_sentences: int,
        n_best: int = 0,
        done: Callable[[int], None] = lambda count: None,
    ):
        self._pool, self._n_best, self._done = pool, n_best, done
        self._max_source, self._max_tokens = runners[0].max_source, max_tokens
        limits = [runner.max_batch for runner in runners if runner.max_batch]
        self._max_sentences = min([max_sentences, *limits])
        self.spent = Spent()
        self._closing = False
        self._idle: queue.SimpleQueue[Runner] = queue.SimpleQueue()
        for runner in runners:
            self._idle.put(runner)
        self._threads = concurrent.futures.ThreadPoolExecutor(len(runners))

    def translate(self, lines: Iterable[str]) -> Iterator[Translation]:
        """Yield the translations of ``lines``.

        Raises:
            UserError: a line is refused. The windows before it have been yielded.
        """
        for window in self.windows(lines):
            yield from window.translations()

    def windows(self, lines: Iterable[str]) -> Iterator[Window]:
        """Yield the translations of ``lines``, window by window.

        Raises:
            UserError: a line is refused. The windows before it have been yielded.
        """
        begin, first = time.perf_counter(), 1
        lines = iter(lines)
        encoding: collections.deque[tuple[list[str], list]] = collections.deque()
        running: collections.deque[_Running] = collections.deque()
        refusal: UserError | None = None
        try:
            while True:
                while len(encoding) < AHEAD and (window := take(lines, WINDOW)):
                    encoding.append((window, self._encode(window, first)))
                    first += len(window)
                if encoding and len(running) < AHEAD and refusal is None:
                    try:
                        running.append(self._run(*encoding.popleft()))
                    except UserError as error:
                        refusal = error
                elif running:
                    finished = self._window(running[0])
                    running.popleft()
                    yield finished
                elif refusal:
                    raise refusal
                else:
                    break
        finally:
            for future in itertools.chain.from_iterable(window.jobs for window in running):
                future.cancel()
        self.spent.wall += time.perf_counter() - begin

    def close(self) -> None:
        """End the threads, after the batch that each has, and the processes."""
        self._closing = True
        self._threads.shutdown(cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _encode(self, lines: list[str], first: int) -> list[concurrent.futures.Future]:
        return [
            self._pool.submit(_encode, lines[at : at + CHUNK], first + at, self._max_source)
            for at in range(0, len(lines), CHUNK)
        ]

    def _rows(
        self, encoding: list[concurrent.futures.Future]
    ) -> tuple[batching.Rows, dict[int, Note]]:
        """Return the rows of a window, and notes on some of them."""
        parts: list[batching.Rows] = []
        notes: dict[int, Note] = {}
        for chunk, future in enumerate(encoding):
            rows, some, seconds = future.result()
            parts.append(rows)
            notes |= {chunk * CHUNK + index: note for index, note in some.items()}
            self.spent.add(encode=seconds)
        return batching.Rows.joined(parts), notes

    def _run(self, lines: list[str], encoding: list[concurrent.futures.Future]) -> _Running:
        """Give a window to the runners; raises ``UserError`` if a line is refused."""
        rows, notes = self._rows(encoding)
        filled = np.flatnonzero(rows.lengths)
        self._done(len(rows.lengths) - len(filled))
        jobs, group, size = [], [], 0
        for batch in batching.by_length(
            rows.lengths[filled], self._max_tokens, self._max_sentences
        ):
            group.append(filled[batch])
            size += len(batch)
            if size >= GROUP:
                jobs.append(self._threads.submit(self._run_group, rows, group))
                group, size = [], 0
        if group:
            jobs.append(self._threads.submit(self._run_group, rows, group))
        return _Running(lines, notes, jobs)

    def _run_group(self, rows: batching.Rows, batches: list[np.ndarray]) -> _Decoding:
        """Translate batches on an idle runner, and give the results to a process."""
        runner = self._idle.get()
        try:
            results = []
            for batch in batches:
                if self._closing:
                    raise concurrent.futures.CancelledError
                results.append(self._run_batch(runner, rows, batch))
        finally:
            self._idle.put(runner)
        indices = np.concatenate(batches).tolist()
        if self._n_best:
            return _Decoding(indices, None, self._pool.submit(_decode, results))
        found = batching.Rows.joined(list(map(batching.Rows.without_padding, results)))
        self.spent.add(target_tokens=len(found.tokens))
        decoding = self._pool.submit(_decode_texts, found.small())
        return _Decoding(indices, found.lengths.tolist(), decoding)

    def _run_batch(
        self, runner: Runner, rows: batching.Rows, batch: np.ndarray
    ) -> np.ndarray | Found:
        tokens = rows.padded(batch)
        start = time.perf_counter()
        result = run_batch(runner, tokens, self._n_best)
        self.spent.add(
            network=time.perf_counter() - start,
            batches=1,
            sentences=len(batch),
            source_tokens=int(rows.lengths[batch].sum()),
            padded_tokens=tokens.size,
        )
        self._done(len(batch))
        return result

    def _window(self, window: _Running) -> Window:
        """Wait for a window's translations."""
        lines = window.lines
        texts, tokens = [""] * len(lines), [0] * len(lines)
        others: dict[int, Translation] = {}
        for job in window.jobs:
            indices, counts, future = job.result()
            found, seconds = future.result()
            self.spent.add(decode=seconds)
            if counts is None:
                others |= zip(indices, found, strict=True)
                counts = [translation.tokens for translation in found]
                found = [translation.text for translation in found]
                self.spent.add(target_tokens=sum(counts))
            else:
                found = found.split("\n")
            for i, text, count in zip(indices, found, counts, strict=True):
                texts[i], tokens[i] = text, count
        for i in window.notes:
            others.setdefault(i, Translation(texts[i], tokens[i]))
        annotate(others, window.notes)
        return Window(lines, texts, tokens, others)


def start_processes(make_codec: Callable[[], Codec], count: int) -> concurrent.futures.Executor:
    """Start ``count`` processes for encoding and decoding; 0 does both in the calling process.

    Each imports the project and reads the tokenizer by itself, so start them before you load a network.

    Args:
        make_codec: makes the codec in each process; it must be picklable. The pipeline sets ``max_source``.
        count: the number of processes.

    Raises:
        UserError: the codec cannot be made. A process could not report it.
    """
    _start(make_codec)
    if not count:
        return _InPlace()
    # not fork: it is unsafe in a process with threads and a CUDA context
    pool = concurrent.futures.ProcessPoolExecutor(count, SPAWN, _start_process, (make_codec,))
    for _ in range(count):
        pool.submit(_ready)  # the pool starts a process for a task that finds the others busy
    return pool


class _InPlace(concurrent.futures.Executor):
    """Replaces a pool of processes: runs each task at once."""

    def submit(self, function: Callable, *arguments: object) -> concurrent.futures.Future:
        future: concurrent.futures.Future = concurrent.futures.Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


_codec: Codec | None = None  # of this process


def _start(make_codec: Callable[[], Codec]) -> None:
    global _codec
    _codec = make_codec()


def _start_process(make_codec: Callable[[], Codec]) -> None:
    _start(make_codec)
    # the codec lives as long as the process; a search of it for garbage costs an eighth of the encoding
    gc.freeze()


def _ready() -> None:
    """Do nothing: the first task of a process."""


def _encode(
    lines: list[str], first: int, max_source: int | None
) -> tuple[batching.Rows, dict[int, Note], float]:
    """Return the rows of all lines, notes on some of them, and the seconds taken."""
    start = time.process_time()
    _codec.max_source = max_source
    rows, notes = _codec.encode_lines(lines, first)
    tokens = np.fromiter(itertools.chain.from_iterable(rows), np.int32)
    packed = batching.Rows(tokens, np.fromiter(map(len, rows), np.int32)).small()
    return packed, notes, time.process_time() - start


def _decode_texts(rows: batching.Rows) -> tuple[str, float]:
    """Return the texts of a network's tokens, and the seconds taken.

    They come as one string with a line for each, which is many times faster to send than a list.
    """
    start = time.process_time()
    return "\n".join(_codec.texts(rows)), time.process_time() - start


def _decode(results: list[np.ndarray | Found]) -> tuple[list[Translation], float]:
    """Return the translations of batches with their hypotheses, and the seconds taken."""
    start = time.process_time()
    translations = [one for result in results for one in _codec.decode(result)]
    return translations, time.process_time() - start
