"""Shards of every kind and compression: reading, writing, and errors."""

import io
import json

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="Ray is not installed, which brings pyarrow")
import pyarrow.parquet as pq  # noqa: E402

from train_model.cli import UserError  # noqa: E402
from trt_code.corpus import parquet_bounds  # noqa: E402
from trt_code.corpus.formats import ROWS, Bad, JsonLines, Parquet, Text, as_line, kind_of  # noqa: E402
from trt_code.corpus.storage import COMPRESSIONS, UNREADABLE, locate  # noqa: E402
from trt_code.text.codec import Hypothesis, Translation  # noqa: E402

pytestmark = pytest.mark.ray
LINES = b"one\ntwo\r\n\nfour"
EMPTY = Translation("", 0)


def translated(text: str, *more: str) -> Translation:
    texts = (text, *more)
    best = tuple(Hypothesis(one, -0.5 - i, (), ()) for i, one in enumerate(texts))
    return Translation(text, 3, best)


def written(shard, chunk, rows, n_best=1) -> bytes:
    """The output of a shard of one chunk."""
    part, output = io.BytesIO(), io.BytesIO()
    shard.write(chunk, 1, rows, n_best, part)
    shard.join(iter([io.BytesIO(part.getvalue())]), output, "")
    return output.getvalue()


class Kept(io.BytesIO):
    """A file in memory that can be read after a compressor has closed it."""

    def close(self) -> None:
        pass


def packed(data: bytes, compression: str) -> bytes:
    file = Kept()
    with COMPRESSIONS[compression](file, "wb") as stream:
        stream.write(data)
    return file.getvalue()


@pytest.mark.parametrize(
    "entry",
    [
        '"text": "five", "id": 12345678901234567890.125, "part": 1e400, "none": -0',
        '"text": "five", "id": 1, "id": 2',
        r'"note": "\u00fc \ud800 \/", "text" :"five" ',
        '"text": "five", "list": [ 1,2 ],\t"x": {}',
    ],
)
def test_what_else_is_in_a_json_object_stays_as_it_is(entry):
    shard = JsonLines("text")
    for start, end in ((b"", b"\n"), (b"\xef\xbb\xbf", b" \r\n"), (b" ", b"")):
        line = start + f"{{{entry}}}".encode() + end
        assert shard.sources([line], 1) == ["five"]
        output = written(shard, [line], [translated("fünf")]).decode()
        assert output.strip() == f'{{{entry}, "translation": "fünf", "score": -0.5}}'
        assert output.count("\n") == 1
        assert output.endswith("\n")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compressed_files_are_read_to_their_ends_or_refused(compression, tmp_path):
    folder, name = locate(str(tmp_path)), f"a.txt{compression}"
    several = packed(b"one\n" * 5000, compression) + packed(b"two\n" * 5000, compression)
    (tmp_path / name).write_bytes(several)
    with folder.open(name, compression) as file:
        lines = [line for chunk in Text().read(file) for line in chunk]
    assert lines == [b"one\n"] * 5000 + [b"two\n"] * 5000
    for damaged in (several[:-9], b"no archive " * 9):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UNREADABLE), folder.open(name, compression) as file:
            list(Text().read(file))


@pytest.mark.parametrize("compression", ["", *COMPRESSIONS])
def test_the_parts_of_a_shard_become_one_file(compression, tmp_path):
    output = Kept()
    parts = [io.BytesIO(b"1\t\tone\n"), io.BytesIO(b"2\t\ttwo\n")]
    Text().join(iter(parts), output, compression)
    (tmp_path / "a").write_bytes(output.getvalue())
    with locate(str(tmp_path)).open("a", compression) as file:
        assert file.read() == b"1\t\tone\n2\t\ttwo\n"
    again = Kept()
    Text().join((io.BytesIO(part.getvalue()) for part in parts), again, compression)
    assert again.getvalue() == output.getvalue()


def test_lines_of_text():
    shard = Text()
    (chunk,) = shard.read(io.BytesIO(b"\xef\xbb\xbf" + LINES + b"\n\xff\n"))
    assert shard.sources(chunk, 1) == ["one", "two", "", "four", Bad("not UTF-8", "\ufffd")]
    rows = [translated("eins"), translated("zwei", "Zwei"), EMPTY, translated("vier"), Bad("")]
    assert written(shard, chunk, rows).decode() == (
        "1\t-0.5000\teins\n2\t-0.5000\tzwei\n2\t-1.5000\tZwei\n3\t\t\n4\t-0.5000\tvier\n"
    )
    assert list(shard.read(io.BytesIO(b""))) == [[]]
    assert [len(chunk) for chunk in shard.read(io.BytesIO(b"x\n" * (ROWS + 1)))] == [ROWS, 1]


def test_lines_of_json():
    shard = JsonLines("en")
    entries = [
        '{"id": 7, "en": "one"}',
        "{",
        "[1]",
        '{"id": 8}',
        '{"en": "a", "score": 1}',
        '{"en": ""}',
    ]
    (chunk,) = shard.read(io.BytesIO("\n".join(entries).encode()))
    sources = shard.sources(chunk, 1)
    assert (sources[0], sources[5]) == ("one", "")
    reasons = [source.reason for source in sources[1:5]]
    assert reasons[0].startswith("not JSON: ")
    assert reasons[1:] == [
        "not a JSON object",
        "no text in the field 'en'",
        "the object has a field 'score' already; rename it",
    ]
    rows = [translated("fünf", "eins"), *sources[1:5], EMPTY]
    first, last = map(json.loads, written(shard, chunk, rows, 2).splitlines())
    assert first == {
        "id": 7,
        "en": "one",
        "translation": "fünf",
        "score": -0.5,
        "hypotheses": [{"text": "fünf", "score": -0.5}, {"text": "eins", "score": -1.5}],
    }
    assert last == {"en": "", "translation": "", "score": None, "hypotheses": []}


def test_escapes_that_are_not_text_stay_escaped():
    """JSON allows half a surrogate pair; the codec refuses it in the text."""
    line = rb'{"text": "one", "id": "\ud800"}'
    shard = JsonLines("text")
    assert shard.sources([line], 1) == ["one"]
    assert json.loads(written(shard, [line], [translated("eins")]))["id"] == "\ud800"
    assert json.loads(as_line({"source": "\udcff\u20ac"}).decode()) == {"source": "\udcff\u20ac"}


def test_a_column_that_is_not_utf8():
    data = pa.array([b"one", b"\xff", None], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, data.buffers())
    shard = Parquet()
    (chunk,) = shard.read(table_file(pa.table({"text": text})))
    missing = Bad("no text in the column 'text'")
    assert shard.sources(chunk, 1) == ["one", Bad("not UTF-8", "\ufffd"), missing]


def table_file(table: pa.Table, **options) -> io.BytesIO:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return io.BytesIO(file.getvalue())


def test_tables():
    table = pa.table({"id": [1, 2, 3], "text": ["one", None, ""], "more": [[1], [], None]})
    shard = Parquet()
    (chunk,) = shard.read(table_file(table))
    assert shard.sources(chunk, 1) == ["one", Bad("no text in the column 'text'"), ""]
    rows = [translated("eins", "ein"), Bad(""), EMPTY]
    found = pq.read_table(io.BytesIO(written(shard, chunk, rows, 2)))
    assert found.drop_columns(["translation", "score", "hypotheses"]) == table.take([0, 2])
    assert found["translation"].to_pylist() == ["eins", ""]
    assert found["score"].to_pylist() == [-0.5, None]
    assert [one["text"] for one in found["hypotheses"][0].as_py()] == ["eins", "ein"]
    many = table_file(pa.table({"text": ["x"] * (ROWS + 1)}), row_group_size=1000)
    assert [len(chunk) for chunk in shard.read(many)] == [ROWS, 1]
    empty = table.slice(0, 0)
    assert [chunk.num_rows for chunk in shard.read(table_file(empty))] == [0]
    assert pq.read_table(io.BytesIO(written(shard, empty, []))).num_rows == 0


def test_tables_of_every_kind_of_column_stay_as_they_are():
    table = pa.table(
        {
            "text": pa.array(["one", None, "one"], pa.large_string()),
            "kept": pa.array(["a", "b", "a"]).dictionary_encode(),
            "pair": [{"en": "x", "n": [["p", None], []]}, None, {"en": "y", "n": None}],
            "map": pa.array([[("a", "b")], [], None], pa.map_(pa.string(), pa.string())),
            "bytes": pa.array([b"a", b"b", None], pa.binary(1)),
            "time": pa.array([1, 2, 3], pa.timestamp("ms")),
            "few": pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2)),
        }
    )
    (chunk,) = Parquet().read(table_file(table))
    assert chunk == table


def repeated(value: str, rows: int) -> pa.Array:
    """A column of ``rows`` times the same text, which takes little memory and a file of little more."""
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [value])


def listed(column: pa.Array) -> pa.Array:
    """A column with one row that has a list of all values."""
    return pa.ListArray.from_arrays([0, len(column)], column)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (lambda: repeated("x" * 1000, ROWS), "rows 1 to 8192 would take 8,"),
        (lambda: listed(repeated("x" * 1000, ROWS)), "rows 1 to 1 would take 8,"),
        (lambda: pa.array(["x" * 3_000_000]), "rows 1 to 1 would take 3,"),
        (lambda: pa.array([bytes(1000)] * 2000, pa.binary(1000)), "'more' of row group 0"),
        (lambda: listed(pa.array(np.zeros(1_000_000, np.int64))), "'more.list.element' of row"),
        (lambda: pa.array(["x" * 5_000_000]), "row group 0 would take 5,"),
    ],
)
def test_a_small_table_that_takes_much_memory_is_refused(column, reason, monkeypatch):
    monkeypatch.setattr(parquet_bounds, "MAX_GROUP", 4_000_000)
    monkeypatch.setattr(parquet_bounds, "MAX_CHUNK", 1_000_000)
    table = pa.table({"more": column()})
    table = table.append_column("text", pa.array(["x"] * len(table)))
    file = table_file(table, compression="zstd", store_schema=False)
    assert len(file.getvalue()) < 10_000
    with pytest.raises(UserError, match=reason):
        list(Parquet().read(file))


def test_a_text_that_is_repeated_is_not_expanded_before_it_is_refused():
    file = table_file(pa.table({"text": repeated("x" * 100_000, ROWS)}), store_schema=False)
    peak = pa.default_memory_pool().max_memory()
    with pytest.raises(UserError, match="rows 1 to 8192 would take 819,"):
        list(Parquet().read(file))
    assert pa.default_memory_pool().max_memory() < max(peak, 50_000_000)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"en": ["one"]}, "no column 'text'; name one of en with --text-field"),
        ({"text": [1]}, "the column 'text' holds int64, not text"),
        ({"text": ["one"], "score": [1]}, "the table has a column 'score' already; rename it"),
    ],
)
def test_a_table_without_text_is_refused(columns, reason):
    with pytest.raises(UserError, match=reason):
        next(Parquet().read(table_file(pa.table(columns))))


def test_a_table_that_is_cut_is_refused():
    data = table_file(pa.table({"text": ["one"] * 100})).getvalue()
    with pytest.raises(UNREADABLE):
        next(Parquet().read(io.BytesIO(data[:-20])))


def test_kinds_by_suffix():
    names = ["a.txt", "a.txt.gz", "news.en", "a.jsonl.zst", "a.NDJSON", "b/a.parquet"]
    assert [kind_of(name) for name in names] == ["text"] * 3 + ["jsonl"] * 2 + ["parquet"]
    with pytest.raises(UserError, match="decompress it"):
        kind_of("a.parquet.gz")
