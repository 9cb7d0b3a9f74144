"""Reads JSON and YAML files that may be damaged, very large or of another form."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train_model.cli import UserError

MAX_BYTES = 1 << 26
"""The most bytes of a document; the largest of this project has some megabytes."""
WRONG_FORM = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""The errors of code that uses a document of another form, or one whose values are not numbers."""


def read_text(path: Path, remedy: str, most: int = MAX_BYTES) -> str:
    """Return the text of a UTF-8 file of at most ``most`` bytes.

    Args:
        path: the file.
        remedy: the end of every message: how to get a good file.
        most: the limit.

    Raises:
        UserError: it is missing, not a file, too large or not UTF-8.
    """
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path} is {'not a file' if path.exists() else 'missing'}; {remedy}")
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {remedy}") from error
    if len(data) > most:
        raise UserError(f"{path} is larger than {most} bytes; {remedy}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; {remedy}") from None


def read_json(path: Path, remedy: str) -> Any:
    """Return the content of a JSON file; raises what :func:`read_text` raises, also for other text."""
    try:
        return json.loads(read_text(path, remedy))
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path} is not JSON ({error}); {remedy}") from error


@contextlib.contextmanager
def used(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Report the errors of code that uses a document of another form.

    Args:
        path: the document.
        what: what it should be, e.g. "a result of make bench".
        remedy: how to get a good one.

    Raises:
        UserError: the code inside raised one of ``WRONG_FORM``.
    """
    try:
        yield
    except WRONG_FORM as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)[:200]
        raise UserError(f"{path} is not {what} ({reason}); {remedy}") from error


def parse_yaml(text: str, name: str, what: str, remedy: str) -> Any:
    """Return the content of a YAML text.

    Aliases are refused, since a few of them can stand for billions of values, and so are repeated keys.

    Args:
        text: the text.
        name: its file or origin, for messages.
        what: what the text is, e.g. "of a recipe".
        remedy: the end of the message.

    Raises:
        UserError: it is not such YAML.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                mark = self.peek_event().start_mark
                raise yaml.composer.ComposerError(problem="it has an alias", problem_mark=mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            met = set()
            for key, _ in node.value:
                if str(key.value) in met:
                    problem = f"{key.value!r} comes twice"
                    raise yaml.constructor.ConstructorError(
                        problem=problem, problem_mark=key.start_mark
                    )
                met.add(str(key.value))
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, *WRONG_FORM) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"{name}{where} is not YAML {what}: {problem}; {remedy}") from error
