"""Tables of results: row by row in a terminal, in Markdown, and as files."""

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train_model.cli import atomic_path


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: in the head.
        value: the key of a row's cell, or a function from the row to the cell.
        form: format specification of the cell, e.g. ".2f". A missing cell (None) shows as "-".
        width: characters in a terminal.
        left: whether the cells are aligned on the left.
    """

    title: str
    value: str | Callable[[Any], Any]
    form: str = ""
    width: int = 8
    left: bool = False

    def cell(self, row: Any) -> str:
        """The text of this column in ``row``."""
        value = row[self.value] if isinstance(self.value, str) else self.value(row)
        return "-" if value is None else format(value, self.form)


class Table:
    """Columns, and the rows written in them.

    Args:
        columns: from left to right.
        separator: between the cells in a terminal.
    """

    def __init__(self, columns: Sequence[Column], separator: str = "") -> None:
        self._columns, self._separator = columns, separator

    def head(self) -> str:
        """The head for a terminal."""
        return self._line(column.title for column in self._columns)

    def line(self, row: Any) -> str:
        """One row for a terminal."""
        return self._line(column.cell(row) for column in self._columns)

    def markdown(self, rows: Iterable[Any]) -> list[str]:
        """The lines of the whole table in Markdown."""
        return markdown_table(
            [column.title for column in self._columns],
            ([column.cell(row) for column in self._columns] for row in rows),
            [column.left for column in self._columns],
        )

    def _line(self, cells: Iterable[str]) -> str:
        padded = (
            cell.ljust(column.width) if column.left else cell.rjust(column.width)
            for column, cell in zip(self._columns, cells, strict=True)
        )
        return self._separator.join(padded).rstrip()


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[bool] | None = None
) -> list[str]:
    """Return the lines of a table in Markdown; by default only the first column is left-aligned."""
    left = [True, *[False] * (len(head) - 1)] if left is None else left
    rule = ["---" if on_left else "---:" for on_left in left]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def facts(values: Mapping[str, Any]) -> list[str]:
    """One list item in Markdown for each name and value."""
    return [f"- {name}: {value}" for name, value in values.items()]


def page(title: str, items: Iterable[str], note: str, table: Iterable[str]) -> str:
    """Return a page in Markdown: a title, a list of facts, a paragraph (may be empty) and a table's lines."""
    return "\n".join([f"# {title}", "", *items, "", *([note, ""] if note else []), *table, ""])


def not_run(entries: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a section in Markdown with the omitted measurements and their reasons; none if nothing is."""
    if not entries:
        return []
    return ["## Not run", "", *(f"- {entry['name']}: {entry['reason']}" for entry in entries), ""]


def as_json(results: Any) -> str:
    """The text of a results file."""
    return json.dumps(results, indent=1) + "\n"


def write_files(folder: Path, files: Mapping[str, str | Callable[[Path], None]]) -> None:
    """Write every file into ``folder``, or none if one fails.

    Args:
        files: for each name, the text or a function that writes the file to a given path.
    """
    with contextlib.ExitStack() as written:
        for name, content in files.items():
            path = written.enter_context(atomic_path(folder / name))
            if isinstance(content, str):
                path.write_text(content, encoding="utf-8")
            else:
                content(path)
