"""Byte-pair encoding: the merges and the glossary that subword-nmt reads."""

import io
import os
import re
from pathlib import Path

from subword_nmt.apply_bpe import BPE

from train_model.cli import UserError
from train_model.data.dictionary import Dictionary
from train_model.data.files import read_lines

SEPARATOR = "@@"


def load_bpe(
    path: str | os.PathLike, dictionary: Dictionary | None = None, separator: str = SEPARATOR
) -> BPE:
    """Read the merges that ``subword-nmt learn-bpe`` wrote.

    A file of the same name that ends in ``.glossary`` has one regular expression per line: a match inside a
    word becomes a separate unit (``subword-nmt apply-bpe --glossaries``).

    With a dictionary, a unit that is not in it is split again into smaller ones that are: the training text
    may have used some merges only on the way to longer units.

    Raises:
        UserError: there is no such file, or it has something else than merges or expressions.
    """
    try:
        merges = list(read_lines(path)) or [""]
    except FileNotFoundError:
        raise UserError(
            f"no BPE codes at {path}; give those that the model was trained with"
        ) from None
    first = 1 if merges[0].startswith("#version:") else 0
    if first and not re.fullmatch(r"#version: ?[0-9]+(\.[0-9]+)*\s*", merges[0]):
        raise UserError(f"{path} line 1 is {merges[0][:40]!r}; it says '#version: 0.2'")
    for number, line in enumerate(merges[first:] or [""], start=first + 1):
        if len(line.strip("\r ").split(" ")) != 2:  # subword-nmt strips these and exits for fewer
            raise UserError(
                f"{path} line {number} is {line[:40]!r}; BPE codes have two symbols a line"
            )
    vocabulary = None if dictionary is None else set(dictionary.symbols)
    glossary = _load_glossary(glossary_path(path))
    if vocabulary and glossary:  # subword-nmt takes the end of a part for the end of the word
        vocabulary |= {symbol.removesuffix(separator) for symbol in vocabulary}
    codes = io.StringIO("".join(f"{line}\n" for line in merges))
    return BPE(codes, separator=separator, vocab=vocabulary, glossaries=glossary)


def glossary_path(bpe_codes: str | os.PathLike) -> Path:
    """The path of the glossary that belongs to a file of BPE codes; the glossary is optional."""
    return Path(bpe_codes).with_suffix(".glossary")


def _load_glossary(path: Path) -> list[str]:
    expressions = list(read_lines(path)) if path.is_file() else []
    for number, expression in enumerate(expressions, start=1):
        try:
            re.compile(expression)
        except re.error as error:
            raise UserError(
                f"{path} line {number} is not a regular expression ({error}): {expression[:40]!r}"
            ) from None
    return [expression for expression in expressions if expression]
