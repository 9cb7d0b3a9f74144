"""Translates shards with Ray Data: tasks read them in chunks, a pool of actors translates the chunks.

    shards -> read (tasks) -> chunks -> translate (actors) -> parts -> join (tasks) -> output, record

Ray Data schedules the tasks, holds readers back while the actors are busy, and repeats what was lost with
an actor or a node. A part depends on its chunk only, so a repeated part replaces an equal one. This module
adds what Ray Data does not know: which chunks belong to a shard. When all parts of a shard are written, a
task joins them under the shard's name and records the shard as finished.
"""

import hashlib
import io
import json
import math
import os
import pickle
import resource
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from train_model.cli import UserError, one_line
from train_model.progress import task
from trt_code.corpus import manifest
from trt_code.corpus.formats import FORMATS, Bad, Format, as_line
from trt_code.corpus.manifest import PARTS, REJECTED, Record
from trt_code.corpus.storage import UNREADABLE, Folder, cannot_write, compression_of
from trt_code.text.api import Translator

MOST_JOINS = 32
"""Shards that are joined at the same time, on all nodes together."""
MOST_TASKS = 10_000
"""Reading tasks; with more shards than that, a task reads several."""
REJECTED_SUFFIX = ".rejected"


@dataclass(frozen=True)
class Job:
    """What every task of a run needs; it is copied to all nodes.

    Attributes:
        source, output: the folders of the shards.
        kinds: the format of each shard, by its name.
        text_field: see ``Format``.
        model: a name or path that is valid on every node.
        translator: options of ``trt_code.text.api.Translator``.
        n_best: hypotheses per row.
        parts: the folder of this run's parts, relative to ``output``.
    """

    source: Folder
    output: Folder
    kinds: dict[str, str]
    text_field: str
    model: str
    translator: dict[str, Any]
    n_best: int = 1
    parts: str = field(default_factory=lambda: f"{PARTS}/{uuid.uuid4().hex[:12]}")

    def format(self, name: str) -> Format:
        return FORMATS[self.kinds[name]](self.text_field)

    def part(self, name: str, first: int) -> str:
        return f"{self.parts}/{name}/{first:012d}"


@dataclass
class Summary:
    """The counts of a run.

    Attributes:
        shards, rows, rejected, warned: of the finished shards, those of earlier runs included.
        translated: rows that this run has translated.
        began, ended: of the first and the last chunk, by the clocks of the actors' nodes (seconds since the
            epoch); the start of the actors is before them.
        cpu_s: processor seconds of the actors for these rows, on the CPU's side of a GPU too.
        unreadable: why a shard could not be read, by its name.
        workers: for each actor its rows, and the peak of its memory in MB.
    """

    shards: int = 0
    rows: int = 0
    rejected: int = 0
    warned: int = 0
    translated: int = 0
    began: float = math.inf
    ended: float = -math.inf
    cpu_s: float = 0.0
    unreadable: dict[str, str] = field(default_factory=dict)
    workers: dict[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The time in which the actors worked, without their start."""
        return max(0.0, self.ended - self.began)

    @property
    def rate(self) -> float:
        """Rows per second of that time."""
        return self.translated / self.seconds if self.seconds else 0.0

    def count(self, result: dict[str, Any]) -> None:
        """Count a result of an actor."""
        self.began = min(self.began, result["began"])
        self.ended = max(self.ended, result["ended"])
        self.translated += result["rows"]
        self.cpu_s += result["cpu_s"]
        rows, _ = self.workers.get(result["worker"], (0, 0))
        self.workers[result["worker"]] = rows + result["rows"], result["peak_mb"]

    def add(self, record: Record) -> None:
        """Count a finished shard."""
        self.shards += 1
        self.rows += record.rows_in
        self.rejected += record.rejected
        self.warned += record.warned


def read(batch: dict[str, Any], job: Job) -> Iterator[dict[str, list]]:
    """Yield the chunks of shards; the last one of each has no rows, but their number or an error."""
    for name in batch["shard"]:
        first = 1
        try:
            identity = job.source.identity(name)
            with job.source.open(name, compression_of(name)) as file:
                for chunk in job.format(name).read(file):
                    yield _chunk(name, first, pickle.dumps(chunk))
                    first += len(chunk)
            if job.source.identity(name) != identity:
                raise UserError("it has changed while it was read")
            yield _chunk(name, 0, total=first - 1, identity=json.dumps(identity))
        except UNREADABLE as error:
            yield _chunk(name, 0, error=one_line(str(error)) or type(error).__name__)


def _chunk(
    name: str, first: int, data: bytes = b"", total: int = -1, identity: str = "", error: str = ""
) -> dict[str, list]:
    # all fields in each, because the blocks of a data set have one schema
    columns = {"shard": name, "first": first, "data": data, "total": total, "identity": identity}
    return {key: [value] for key, value in (columns | {"error": error}).items()}


class Worker:
    """An actor: translates chunks and writes a part of the output for each."""

    def __init__(self, job: Job) -> None:
        self._job, self._failure = job, ""
        try:
            self._translator = Translator(job.model, on_error="skip", **job.translator)
        except UserError as error:
            self._failure = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list]:
        """Return the counts of one chunk, without its rows."""
        start, began = time.process_time(), time.time()
        (name,), (first,), (data,) = batch["shard"], batch["first"], batch["data"]
        done = {"rows": 0, "rejected": 0, "warned": 0, "fatal": self._failure}
        if data and not self._failure:
            try:
                done |= self._translate(str(name), int(first), pickle.loads(data))
            except UserError as error:
                done["fatal"] = str(error)
            except OSError as error:
                done["fatal"] = cannot_write(self._job.output.url, error)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        done |= {"worker": f"{os.uname().nodename}:{os.getpid()}", "peak_mb": peak}
        done |= {"began": began, "ended": time.time(), "cpu_s": time.process_time() - start}
        kept = {name: batch[name] for name in ("shard", "first", "total", "identity", "error")}
        return kept | {name: [value] for name, value in done.items()}

    def _translate(self, name: str, first: int, chunk: Any) -> dict[str, int]:
        job, shard = self._job, self._job.format(name)
        sources = shard.sources(chunk, first)
        texts = ["" if isinstance(source, Bad) else source for source in sources]
        found = self._translator.translations(texts, n_best=job.n_best, first_line=first)
        rows = [
            source if isinstance(source, Bad) else Bad(one.error, source) if one.error else one
            for source, one in zip(sources, found, strict=True)
        ]
        with job.output.write(job.part(name, first)) as file:
            shard.write(chunk, first, rows, job.n_best, file)
        rejected = [(number, row) for number, row in enumerate(rows, first) if isinstance(row, Bad)]
        if rejected:
            with job.output.write(job.part(name, first) + REJECTED_SUFFIX) as file:
                for number, row in rejected:
                    entry = {"row": number, "reason": row.reason, "source": row.source}
                    file.write(as_line(entry))
        warned = sum(bool(one.warning) for one in found)
        return {"rows": len(rows), "rejected": len(rejected), "warned": warned}


@dataclass
class ShardParts:
    """The parts of an unfinished shard.

    Attributes:
        total: rows of the shard; -1 until it has been read to its end.
        identity: of the shard that was read.
        rows, rejected: rows of each part, by the number of its first row.
        warned: see ``Record``.
    """

    total: int = -1
    identity: str = ""
    rows: dict[int, int] = field(default_factory=dict)
    rejected: dict[int, int] = field(default_factory=dict)
    warned: int = 0

    def add(self, result: dict[str, Any]) -> None:
        if result["total"] >= 0:
            self.total, self.identity = result["total"], result["identity"]
            return
        self.rows[result["first"]] = result["rows"]
        self.warned += result["warned"]
        if result["rejected"]:
            self.rejected[result["first"]] = result["rejected"]

    def is_complete(self) -> bool:
        return bool(self.rows) and sum(self.rows.values()) == self.total


def join(job: Job, name: str, parts: ShardParts) -> Record | str:
    """Write a shard's output from its parts, then its record; return that, or why it cannot be written."""
    # Ray may repeat a task that was lost after its last step
    if record := manifest.finished(job.source, job.output, [name]).get(name):
        return record
    firsts, rejected = sorted(parts.rows), sum(parts.rejected.values())
    try:
        with job.output.write(name) as file:
            digest = _Digest(file)
            opened = _opened(job, [job.part(name, first) for first in firsts])
            job.format(name).join(opened, digest, compression_of(name))
        side = f"{REJECTED}/{name}.jsonl"
        job.output.remove(side)
        if rejected:
            names = [job.part(name, first) + REJECTED_SUFFIX for first in sorted(parts.rejected)]
            with job.output.write(side) as file:
                for part in _opened(job, names):
                    shutil.copyfileobj(part, file)
        record = Record(
            input=json.loads(parts.identity),
            rows_in=parts.total,
            rows_out=parts.total - rejected,
            rejected=rejected,
            warned=parts.warned,
            bytes_out=digest.size,
            sha256=digest.sha256.hexdigest(),
        )
        manifest.finish(job.output, name, record)
        job.output.remove(f"{job.parts}/{name}")
    except OSError as error:
        return cannot_write(job.output.url, error)
    return record


def _opened(job: Job, names: list[str]) -> Iterator[BinaryIO]:
    for name in names:
        with job.output.open(name) as file:
            yield file


class _Digest(io.RawIOBase):
    """A file for writing that keeps the SHA-256 and the size of what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha256, self.size = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, data: Any) -> int:
        self._file.write(data)
        self.sha256.update(data)
        self.size += memoryview(data).nbytes
        return memoryview(data).nbytes


def translate(job: Job, names: list[str], ray: Any, size: int, options: dict[str, Any]) -> Summary:
    """Translate the shards ``names``.

    Args:
        ray: what ``train_model.ray_cluster.connected`` yields.
        size, options: of the pool of actors; see ``train_model.ray_cluster.pool``.

    Raises:
        UserError: nothing more can be translated or written. Finished shards are recorded.
    """
    shards = [{"shard": name} for name in names]
    tasks = min(len(names), MOST_TASKS)
    dataset = ray.data.from_items(shards, override_num_blocks=tasks)
    # Readers need no processor of their own: they wait for the actors most of the time.
    readers = ray.data.TaskPoolStrategy(size=min(size, tasks))
    dataset = dataset.map_batches(read, fn_args=(job,), batch_size=1, num_cpus=0, compute=readers)
    dataset = dataset.map_batches(Worker, fn_constructor_args=(job,), **options)
    join_on_ray = ray.remote(num_cpus=0, max_retries=-1)(join)
    summary = Summary()
    unfinished = {name: ShardParts() for name in names}
    joining: dict[Any, str] = {}

    def collect(at_most: int) -> None:
        """Take the results of joins, until at most that many are under way."""
        while joining:
            wait = None if len(joining) > at_most else 0
            ready, _ = ray.wait(list(joining), timeout=wait)
            if not ready:
                return
            (record,) = ray.get(ready)
            if isinstance(record, str):
                raise UserError(record)
            joining.pop(ready[0])
            summary.add(record)

    with task("starting", None, "rows") as bar:
        for result in dataset.iter_rows():
            if result["fatal"]:
                raise UserError(result["fatal"])
            name, rows = result["shard"], result["rows"]
            summary.count(result)
            if result["error"]:
                summary.unreadable[name] = result["error"]
                unfinished.pop(name)
            elif name in unfinished:
                unfinished[name].add(result)
                if unfinished[name].is_complete():
                    joining[join_on_ray.remote(job, name, unfinished.pop(name))] = name
            collect(MOST_JOINS)
            bar.description = f"{summary.shards} of {len(names)} shards, {summary.rate:,.0f} rows/s"
            bar.advance(rows)
        collect(0)
    if unfinished:
        raise UserError(f"Ray lost chunks of {', '.join(unfinished)}; run the same command again")
    return summary
