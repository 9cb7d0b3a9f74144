"""Byte-pair encoding: the merges and the glossary that subword-nmt reads."""

import io
import os
import re
from pathlib import Path

from subword_nmt.apply_bpe import BPE

from train_model.cli import UserError
from train_model.data.dictionary import Dictionary
from train_model.data.files import read_entries
from train_model.data.regex_cost import least_width, ways
from train_model.data.word_cache import WordCache

SEPARATOR = "@@"
MAX_WAYS = 20_000
"""The most ways in which a glossary's expression may match at one place, see ``regex_cost``."""
MAX_EXPRESSIONS, MAX_GLOSSARY_BYTES = 5000, 1 << 18
"""The most expressions and bytes of a glossary; subword-nmt searches every word for every expression."""


def load_bpe(
    path: str | os.PathLike, dictionary: Dictionary | None = None, separator: str = SEPARATOR
) -> BPE:
    """Read the merges that ``subword-nmt learn-bpe`` wrote.

    A file of the same name that ends in ``.glossary`` has one regular expression per line: a match inside a
    word becomes a separate unit (``subword-nmt apply-bpe --glossaries``).

    With a dictionary, a unit that is not in it is split again into smaller units of the dictionary: the
    training text may have used some merges only on the way to longer units.

    Raises:
        UserError: the file is missing, or a line of it is not a merge or an expression.
    """
    try:
        merges = read_entries(path) or [""]
    except FileNotFoundError:
        raise UserError(
            f"no BPE codes at {path}; give those that the model was trained with"
        ) from None
    first = 1 if merges[0].startswith("#version:") else 0
    if first and not re.fullmatch(r"#version: ?0\.[12](\.0)*\s*", merges[0]):
        raise UserError(f"{path} line 1 is {merges[0][:40]!r}; it says '#version: 0.2' or 0.1")
    for number, line in enumerate(merges[first:] or [""], start=first + 1):
        if len(line.strip("\r ").split(" ")) != 2:  # subword-nmt exits for others
            raise UserError(
                f"{path} line {number} is {line[:40]!r}; BPE codes have two symbols a line"
            )
    vocabulary = None if dictionary is None else set(dictionary.symbols)
    glossary = _load_glossary(glossary_path(path))
    if vocabulary and glossary:  # subword-nmt takes the end of a part for the end of the word
        vocabulary |= {symbol.removesuffix(separator) for symbol in vocabulary}
    codes = io.StringIO("".join(f"{line}\n" for line in merges))
    bpe = BPE(codes, separator=separator, vocab=vocabulary, glossaries=glossary)
    bpe.cache = WordCache()  # subword-nmt's own dict grows with every new word
    return bpe


def glossary_path(bpe_codes: str | os.PathLike) -> Path:
    """The path of the glossary that belongs to a file of BPE codes; the glossary is optional."""
    return Path(bpe_codes).with_suffix(".glossary")


def _load_glossary(path: Path) -> list[str]:
    most = {"lines": MAX_EXPRESSIONS, "size": MAX_GLOSSARY_BYTES}
    expressions = read_entries(path, **most) if path.is_file() else []
    for number, expression in enumerate(expressions, start=1):
        if expression and (reason := _unsplittable(expression)):
            raise UserError(
                f"{path} line {number} is not a regular expression for a glossary ({reason}): "
                f"{expression[:40]!r}"
            )
    return [expression for expression in expressions if expression]


def unusable(expression: str) -> str | None:
    """Return why ``expression`` is wrong or takes too long to search for, or None if it can be used."""
    try:
        re.compile(expression)
        if ways(expression) > MAX_WAYS:
            return "a long word could take for ever; repeat nothing that itself can vary"
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return None


def _unsplittable(expression: str) -> str | None:
    """Return why subword-nmt cannot split words at ``expression``'s matches, or None if it can."""
    reason = unusable(expression) or unusable(f"^(x|{expression})$")  # as subword-nmt combines them
    if reason:
        return reason
    pattern = re.compile(expression)
    if pattern.groups:  # re.split returns the text of every group as well
        return "it has a capturing group; write (?:...)"
    return None if least_width(expression) else "it can match where there is nothing"
