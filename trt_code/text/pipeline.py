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
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from train_model.cli import UserError
from train_model.data.files import take
from train_model.models.hypotheses import Found
from trt_code.runners import Runner
from trt_code.text import batching
from trt_code.text.codec import Codec, Note, Translation, annotate
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

    def _run(
        self, rows: batching.Rows, notes: dict[int, Note]
    ) -> tuple[int, dict[int, Note], list[tuple[list[int], Any]]]:
        """Translate a window: its size and notes, and for each batch its lines and their texts."""
        filled = np.flatnonzero(rows.lengths)
        self._done(len(rows.lengths) - len(filled))
        batches = batching.by_length(rows.lengths[filled], self._max_tokens, self._max_sentences)
        todo = collections.deque(filled[batch] for batch in batches)
        decoding: collections.deque = collections.deque()

        def keep_busy(runner: Runner) -> None:
            with contextlib.suppress(IndexError):  # none is left
                while True:
                    batch = todo.popleft()
                    result = self._run_batch(runner, rows, batch)
                    if isinstance(result, np.ndarray):  # a quarter of what would go to the process
                        result = result.astype(np.uint16 if result.max() < 2**16 else np.int32)
                    decoding.append((batch.tolist(), self._pool.submit(_decode, result)))
                    self._done(len(batch))

        with concurrent.futures.ThreadPoolExecutor(len(self._runners)) as threads:
            running = [threads.submit(keep_busy, runner) for runner in self._runners]
            for thread in running:
                thread.result()
        return len(rows.lengths), notes, list(decoding)

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
        return result

    def _texts(
        self, lines: int, notes: dict[int, Note], decoding: list[tuple[list[int], Any]]
    ) -> list[Translation]:
        translations = [Translation("", 0)] * lines
        for batch, future in decoding:
            results, counts, seconds = future.result()
            self.spent.add(decode=seconds, target_tokens=sum(counts))
            if isinstance(results, str):
                results = map(Translation, results.split("\n"), counts)
            for i, result in zip(batch, results, strict=True):
                translations[i] = result
        annotate(translations, notes)
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


def _encode(lines: list[str], first: int) -> tuple[batching.Rows, dict[int, Note], float]:
    """Return the rows of all lines, notes on some of them, and the seconds taken."""
    start = time.process_time()
    rows, notes = _codec.encode_lines(lines, first)
    tokens = np.fromiter(itertools.chain.from_iterable(rows), np.int64)
    packed = batching.Rows(tokens, np.fromiter(map(len, rows), np.int64))
    return packed, notes, time.process_time() - start


def _decode(result: np.ndarray | Found) -> tuple[str | list[Translation], list[int], float]:
    """Return the translations of a batch, their numbers of tokens, and the seconds taken.

    Texts alone come as one string with a line for each, which is many times faster to send.
    """
    start = time.process_time()
    if isinstance(result, np.ndarray):
        texts, counts = _codec.texts(result)
        return "\n".join(texts), counts, time.process_time() - start
    translations = _codec.decode(result)
    counts = [translation.tokens for translation in translations]
    return translations, counts, time.process_time() - start
