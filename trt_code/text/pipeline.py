"""Translates files of many lines with all stages at work at the same time.

Processes encode and decode text while threads keep one runner each busy; with two runners the copies of
one overlap with the other's work on the device. Lines are sorted by length within a window, so that
batches have little padding and an endless input needs bounded memory.
"""

import collections
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from train_model.cli import UserError
from train_model.data.files import take
from train_model.models.hypotheses import Found
from trt_code.runners import Runner
from trt_code.text import batching
from trt_code.text.codec import Codec, Note, Translation
from trt_code.text.translator import run_batch

WINDOW = 8192
CHUNK = 256
"""Lines that a process encodes at a time."""


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
        make_codec: makes the codec in each process; it must be picklable.
        runners: they are used by one thread each and stay the caller's.
        processes: for encoding and decoding; 0 does both in the calling process.
        max_tokens, max_sentences: bounds of a batch, padding included.
        n_best: hypotheses with scores for each line; 0 gives only the text.
        done: called with the number of lines finished, after every batch and from any thread.
    """

    def __init__(
        self,
        make_codec: Callable[[], Codec],
        runners: Sequence[Runner],
        processes: int,
        max_tokens: int,
        max_sentences: int,
        n_best: int = 0,
        done: Callable[[int], None] = lambda count: None,
    ):
        self._runners, self._n_best, self._done = runners, n_best, done
        self._max_tokens = max_tokens
        limits = [runner.max_batch for runner in runners if runner.max_batch]
        self._max_sentences = min([max_sentences, *limits])
        self.spent = Spent()
        if processes:
            self._pool = concurrent.futures.ProcessPoolExecutor(
                # not fork: it is unsafe in a process with threads and a CUDA context
                processes,
                multiprocessing.get_context("spawn"),
                _start,
                (make_codec,),
            )
        else:
            _start(make_codec)
            self._pool = _InPlace()

    def translate(self, lines: Iterable[str]) -> Iterator[Translation]:
        """Yield the translations of ``lines``, window by window.

        Raises:
            UserError: a line is refused. The windows before it have been yielded.
        """
        begin, first = time.perf_counter(), 1
        lines = iter(lines)
        encoding: collections.deque[list] = collections.deque()
        decoding: collections.deque[tuple] = collections.deque()
        while True:
            # while one window is encoded, the one before it is translated, and the one before that is
            # decoded
            while len(encoding) < 2 and (window := take(lines, WINDOW)):
                encoding.append(self._encode(window, first))
                first += len(window)
            if encoding:
                try:
                    rows = self._rows(encoding.popleft())
                except UserError:
                    for window in decoding:
                        yield from self._texts(*window)
                    raise
                decoding.append(self._run(*rows))
            if not decoding:
                break
            if len(decoding) > 1 or not encoding:
                yield from self._texts(*decoding.popleft())
        self.spent.wall += time.perf_counter() - begin

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _encode(self, lines: list[str], first: int) -> list[concurrent.futures.Future]:
        return [
            self._pool.submit(_encode, lines[at : at + CHUNK], first + at)
            for at in range(0, len(lines), CHUNK)
        ]

    def _rows(
        self, encoding: list[concurrent.futures.Future]
    ) -> tuple[list[np.ndarray], list[Note]]:
        """Return the rows of a window, and a note on each."""
        rows: list[np.ndarray] = []
        notes: list[Note] = []
        for future in encoding:
            tokens, ends, more, seconds = future.result()
            rows += np.split(tokens, ends[:-1])
            notes += more
            self.spent.add(encode=seconds)
        return rows, notes

    def _run(
        self, rows: list[np.ndarray], notes: list[Note]
    ) -> tuple[list[Note], list[tuple[list[int], Any]]]:
        """Translate a window: its notes, and for each batch its lines and their texts."""
        filled = [i for i, row in enumerate(rows) if len(row)]
        self._done(len(rows) - len(filled))
        lengths = [len(rows[i]) for i in filled]
        batches = batching.by_length(lengths, self._max_tokens, self._max_sentences)
        todo = collections.deque([filled[i] for i in batch] for batch in batches)
        decoding: collections.deque = collections.deque()

        def keep_busy(runner: Runner) -> None:
            with contextlib.suppress(IndexError):  # none is left
                while True:
                    batch = todo.popleft()
                    result = self._run_batch(runner, [rows[i] for i in batch])
                    if isinstance(result, np.ndarray):  # a quarter of what would go to the process
                        result = result.astype(np.uint16 if result.max() < 2**16 else np.int32)
                    decoding.append((batch, self._pool.submit(_decode, result)))
                    self._done(len(batch))

        with concurrent.futures.ThreadPoolExecutor(len(self._runners)) as threads:
            running = [threads.submit(keep_busy, runner) for runner in self._runners]
            for thread in running:
                thread.result()
        return notes, list(decoding)

    def _run_batch(self, runner: Runner, rows: list[np.ndarray]) -> np.ndarray | Found:
        tokens = batching.pad(rows)
        start = time.perf_counter()
        result = run_batch(runner, tokens, self._n_best)
        self.spent.add(
            network=time.perf_counter() - start,
            batches=1,
            sentences=len(rows),
            source_tokens=sum(map(len, rows)),
            padded_tokens=tokens.size,
        )
        return result

    def _texts(self, notes: list[Note], decoding: list[tuple[list[int], Any]]) -> list[Translation]:
        translations = [Translation("", 0, error=note.error) for note in notes]
        for batch, future in decoding:
            results, seconds = future.result()
            self.spent.add(decode=seconds, target_tokens=sum(result.tokens for result in results))
            for i, result in zip(batch, results, strict=True):
                translations[i] = replace(result, warning=notes[i].warning)
        return translations


class _InPlace:
    """Replaces a pool of processes: runs each task at once."""

    def submit(self, function: Callable, *arguments: object) -> concurrent.futures.Future:
        future: concurrent.futures.Future = concurrent.futures.Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_: object) -> None:
        pass


_codec: Codec | None = None  # of this process


def _start(make_codec: Callable[[], Codec]) -> None:
    global _codec
    _codec = make_codec()


def _encode(lines: list[str], first: int) -> tuple[np.ndarray, np.ndarray, list[Note], float]:
    """Return the concatenated tokens of all lines, each line's end, notes, and the seconds taken."""
    start = time.process_time()
    rows, notes = _codec.encode_lines(lines, first)
    tokens = np.fromiter(itertools.chain.from_iterable(rows), np.int64)
    return tokens, np.cumsum([len(row) for row in rows]), notes, time.process_time() - start


def _decode(result: np.ndarray | Found) -> tuple[list[Translation], float]:
    start = time.process_time()
    return _codec.decode(result), time.process_time() - start
