"""Tables of results compared with text written by hand."""

import json

import pytest

from train_model.tables import (
    Column,
    Table,
    as_json,
    facts,
    markdown_table,
    not_run,
    write_files,
)

TABLE = Table(
    [
        Column("name", "name", width=6, left=True),
        Column("ms", "ms", ".2f", 7),
        Column("twice", lambda row: row["ms"] and 2 * row["ms"], ".1f", 7),
    ]
)
ROWS = [{"name": "ort", "ms": 1.234}, {"name": "trt", "ms": None}]


def test_a_table_for_a_terminal():
    assert TABLE.head() == "name       ms  twice"
    assert [TABLE.line(row) for row in ROWS] == ["ort      1.23    2.5", "trt         -      -"]


def test_a_table_in_markdown():
    assert TABLE.markdown(ROWS) == [
        "| name | ms | twice |",
        "| --- | ---: | ---: |",
        "| ort | 1.23 | 2.5 |",
        "| trt | - | - |",
    ]


def test_the_first_column_is_on_the_left_by_default():
    assert markdown_table(["", "a"], [["x", "1"]]) == ["|  | a |", "| --- | ---: |", "| x | 1 |"]


def test_lists_of_facts_and_of_what_was_not_run():
    assert facts({"cpu": "fast", "threads": 2}) == ["- cpu: fast", "- threads: 2"]
    assert not_run([]) == []
    entries = [{"name": "trt fp16", "reason": "no GPU"}]
    assert not_run(entries) == ["## Not run", "", "- trt fp16: no GPU", ""]


def test_files_are_written_together_or_not_at_all(tmp_path):
    write_files(tmp_path, {"a.json": as_json({"x": 1}), "b.txt": lambda p: p.write_text("b")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert (tmp_path / "b.txt").read_text() == "b"

    def fail(path):
        raise RuntimeError("no picture today")

    with pytest.raises(RuntimeError):
        write_files(tmp_path, {"a.json": as_json({"x": 2}), "b.txt": fail})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.txt"]
