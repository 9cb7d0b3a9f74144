"""The kinds of shards: plain text, JSON lines and Parquet. Each is read in chunks and written in parts."""

import abc
import json
import posixpath
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from train_model.cli import UserError
from train_model.data.files import BYTE_ORDER_MARK, raw_lines, take
from trt_code.corpus import parquet_bounds
from trt_code.corpus.storage import COMPRESSIONS, compression_of
from trt_code.text.codec import Translation

ROWS = 8192
"""Rows of a chunk, within which sentences are sorted by length."""
TRANSLATION, SCORE, HYPOTHESES = "translation", "score", "hypotheses"
"""The fields that are added to a row of JSON or a table."""


@dataclass(frozen=True)
class Bad:
    """A row that cannot be translated.

    Attributes:
        reason: one line.
        source: what could be read of it.
    """

    reason: str
    source: str = ""


class Format(abc.ABC):
    """One kind of shard.

    Args:
        field: the name of the column or field with the text, in a table or JSON.
    """

    def __init__(self, field: str = "text") -> None:
        self.field = field

    @abc.abstractmethod
    def read(self, file: BinaryIO) -> Iterator[Any]:
        """Yield the rows in chunks of at most ``ROWS``; an empty shard has one empty chunk.

        Raises:
            UserError: the shard lacks the text, or is damaged.
        """

    @abc.abstractmethod
    def sources(self, chunk: Any, first: int) -> list[str | Bad]:
        """Return the text of each row; ``first`` is the first row's number, from 1."""

    @abc.abstractmethod
    def write(
        self, chunk: Any, first: int, rows: Sequence[Translation | Bad], n_best: int, file: BinaryIO
    ) -> None:
        """Write a part of the output: the rows of a chunk that are not bad, in their order."""

    @abc.abstractmethod
    def join(self, parts: Iterator[BinaryIO], file: BinaryIO, compression: str) -> None:
        """Write the output from its parts, in order."""


class Text(Format):
    """Lines of text. The output has lines of number, score and translation, separated by tabs."""

    def read(self, file: BinaryIO) -> Iterator[list[bytes]]:
        lines = raw_lines(file, "the shard")
        chunk = take(lines, ROWS)
        yield chunk
        while chunk := take(lines, ROWS):
            yield chunk

    def sources(self, chunk: list[bytes], first: int) -> list[str | Bad]:
        return [self._decode(line, first + i) for i, line in enumerate(chunk)]

    def _decode(self, line: bytes, number: int) -> str | Bad:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            return _not_utf8(line.rstrip(b"\r\n"))
        text = text.removesuffix("\n").removesuffix("\r")
        return text.removeprefix(BYTE_ORDER_MARK) if number == 1 else text

    def write(self, chunk, first, rows, n_best, file) -> None:
        for number, row in enumerate(rows, start=first):
            if isinstance(row, Bad):
                continue
            best = [(f"{one.score:.4f}", one.text) for one in row.hypotheses] or [("", "")]
            file.writelines(f"{number}\t{score}\t{text}\n".encode() for score, text in best)

    def join(self, parts, file, compression) -> None:
        if not compression:
            for part in parts:
                shutil.copyfileobj(part, file)
            return
        with COMPRESSIONS[compression](file, "wb") as compressed:
            for part in parts:
                shutil.copyfileobj(part, compressed)


class JsonLines(Text):
    """One JSON object per line. The output has the same text with the translation added to each object."""

    def sources(self, chunk: list[bytes], first: int) -> list[str | Bad]:
        return [self._text(line) for line in super().sources(chunk, first)]

    def _text(self, line: str | Bad) -> str | Bad:
        if isinstance(line, Bad):
            return line
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            return Bad(f"not JSON: {error}", line)
        if not isinstance(entry, dict):
            return Bad("not a JSON object", line)
        if not isinstance(entry.get(self.field), str):
            return Bad(f"no text in the field {self.field!r}", line)
        if taken := entry.keys() & {TRANSLATION, SCORE, HYPOTHESES}:
            return Bad(f"the object has a field {min(taken)!r} already; rename it", line)
        return entry[self.field]

    def write(self, chunk, first, rows, n_best, file) -> None:
        for line, row in zip(chunk, rows, strict=True):
            if not isinstance(row, Bad):
                # its values, written again, would lose digits of numbers and repeated keys
                entry = line.decode("utf-8-sig").rstrip().removesuffix("}")
                added = as_line(_added(row, n_best)).removeprefix(b"{")
                file.write(f"{entry}, ".encode() + added)


class Parquet(Format):
    """A table. The output has the same columns, and the translation's."""

    def read(self, file: BinaryIO) -> Iterator[pa.Table]:
        plain = pq.ParquetFile(file)
        schema = plain.schema_arrow
        text = parquet_bounds.text_columns(plain)
        # a value that is repeated is kept once, until the size of the rows is known
        shard = pq.ParquetFile(file, metadata=plain.metadata, read_dictionary=text)
        if self.field not in schema.names:
            raise UserError(
                f"no column {self.field!r}; name one of {', '.join(schema.names)} with --text-field"
            )
        kind = schema.field(self.field).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise UserError(f"the column {self.field!r} holds {kind}, not text")
        if taken := set(schema.names) & {TRANSLATION, SCORE, HYPOTHESES}:
            raise UserError(f"the table has a column {min(taken)!r} already; rename it")
        if not shard.metadata.num_rows:
            yield schema.empty_table()
        parquet_bounds.check_row_groups(shard, ROWS)
        first, size = 1, 0
        chunk: list[pa.Table] = []
        for batch in shard.iter_batches(ROWS):  # ends with each row group
            more = parquet_bounds.chunk_size(batch, first)
            rows = sum(map(len, chunk)) + len(batch)
            if chunk and (rows > ROWS or size + more > parquet_bounds.MAX_CHUNK):
                yield pa.concat_tables(chunk)
                chunk, size = [], 0
            chunk.append(pa.Table.from_batches([batch]).cast(schema))
            first, size = first + len(batch), size + more
        if chunk:
            yield pa.concat_tables(chunk)

    def sources(self, chunk: pa.Table, first: int) -> list[str | Bad]:
        # other programs write columns of text that is not UTF-8, and pyarrow takes it
        column = chunk[self.field].cast(pa.large_binary()).to_pylist()
        return [self._text(data) for data in column]

    def _text(self, data: bytes | None) -> str | Bad:
        if data is None:
            return Bad(f"no text in the column {self.field!r}")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return _not_utf8(data)

    def write(self, chunk, first, rows, n_best, file) -> None:
        kept = [i for i, row in enumerate(rows) if not isinstance(row, Bad)]
        table = chunk.take(pa.array(kept, pa.int64()))
        added = [_added(rows[i], n_best) for i in kept]
        kinds = {TRANSLATION: pa.string(), SCORE: pa.float64()}
        if n_best > 1:
            one = pa.struct({"text": pa.string(), "score": pa.float64()})
            kinds[HYPOTHESES] = pa.list_(one)
        for name, kind in kinds.items():
            table = table.append_column(name, pa.array([row[name] for row in added], kind))
        pq.write_table(table, file)

    def join(self, parts, file, compression) -> None:
        writer = None
        for part in parts:
            table = pq.read_table(part)
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
        writer.close()


def as_line(entry: dict[str, Any]) -> bytes:
    """Return a JSON object as a line of UTF-8; lone surrogates stay escaped."""
    return json.dumps(entry, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def _not_utf8(data: bytes) -> Bad:
    return Bad("not UTF-8", data.decode("utf-8", errors="replace"))


def _added(row: Translation, n_best: int) -> dict[str, Any]:
    score = row.hypotheses[0].score if row.hypotheses else None
    added: dict[str, Any] = {TRANSLATION: row.text, SCORE: score}
    if n_best > 1:
        added[HYPOTHESES] = [{"text": one.text, "score": one.score} for one in row.hypotheses]
    return added


FORMATS: dict[str, type[Format]] = {"text": Text, "jsonl": JsonLines, "parquet": Parquet}
SUFFIXES = {".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


def kind_of(name: str) -> str:
    """Return the format of a file by its suffix, a key of ``FORMATS``; an unknown suffix means text.

    Raises:
        UserError: a table is compressed as a whole.
    """
    compression = compression_of(name)
    kind = SUFFIXES.get(posixpath.splitext(name.removesuffix(compression))[1].lower(), "text")
    if kind == "parquet" and compression:
        raise UserError(
            f"{name}: decompress it; Parquet is read by its parts, and compresses them itself"
        )
    return kind
