"""Options of a model's text processing: the ``text:`` section of a model.yaml."""

import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from train_model.cli import UserError
from train_model.data.bpe import SEPARATOR, glossary_path, unusable
from train_model.data.files import read_entries
from train_model.data.regex_cost import literals
from train_model.data.word_cache import WordCache

_FIGURES = re.compile("[0-9]+")
_LAST_MARK = re.compile(r"(?<=.)[,.?!]$")
CHOICES = {
    "subwords": ("bpe", "sentencepiece", "none"),
    "unicode": ("NFC", "NFKC", "none"),
    "case": ("keep", "lower", "truecase"),
    "unknown": ("refuse", "keep", "drop"),
}


def patterns(text: str) -> list[str]:
    """Return the words of a text, every run of digits replaced by "0", and the marks that end words."""
    found = []
    for word in text.split():
        mark = _LAST_MARK.search(word)
        found.append(_FIGURES.sub("0", word[: mark.start()] if mark else word))
        if mark:
            found.append(mark[0])
    return found


def _items(untrained: Any) -> list[tuple[str, str, int]]:
    """Return the forms of ``untrained``: name, regular expression, and how often the training text has it.

    Raises:
        UserError: it is not a mapping of names to expressions, or to pairs of an expression and a number.
    """
    if untrained is None:
        return []
    items = untrained.items() if isinstance(untrained, Mapping) else [(None, untrained)]
    found = []
    for name, value in items:
        expression, most = value if isinstance(value, list) and len(value) == 2 else (value, 0)
        if [*map(type, (name, expression, most))] != [str, str, int] or most < 0:
            raise UserError(
                "text: untrained has names of forms, each with a regular expression or with "
                "[expression, most]"
            )
        found.append((name, expression, most))
    return found


@dataclass(frozen=True)
class TextOptions:
    """The steps that turn a sentence into a model's units, in order.

    Attributes:
        unicode: normalisation form of the input; "none" leaves characters as they are.
        moses: whether the units come from text in Moses' tokenisation.
        aggressive_dashes: whether Moses writes a hyphen inside a word as ``@-@``.
        escape: whether Moses writes characters such as ``&`` and ``|`` as entities.
        case: "lower" for text in lower case, "truecase" for Moses' truecaser, or "keep".
        truecase_model: the truecaser's file for the source.
        subwords: "bpe" (subword-nmt), "sentencepiece", or "none" if text is already in units.
        codes: the merges of subword-nmt, or the SentencePiece model.
        target_codes: the same for the target, if it has its own.
        separator: ends a BPE unit inside a word.
        unknown: what happens to source units that the dictionary lacks: "refuse" the sentence, "keep" them
            as ``<unk>``, or "drop" them.
        domain: the subject of the training text, for messages.
        seen: a file with the word patterns of the training text, see :func:`patterns`; a sentence with
            any other pattern gets a warning.
        longest: the most tokens of a training sentence, bos and eos included; a longer sentence gets a
            warning.
        untrained: forms that the training text lacks, with the regular expression that finds each, or with a
            list of the expression and the most matches in a training sentence; a sentence with more matches
            gets a warning.
    """

    unicode: str = "NFC"
    moses: bool = False
    aggressive_dashes: bool = False
    escape: bool = True
    case: str = "keep"
    truecase_model: Path | None = None
    subwords: str = "bpe"
    codes: Path | None = None
    target_codes: Path | None = None
    separator: str = SEPARATOR
    unknown: str = "refuse"
    domain: str = ""
    seen: Path | None = None
    longest: int | None = None
    untrained: Mapping[str, str | list] | None = None

    def __post_init__(self) -> None:
        """Check the options against each other.

        Raises:
            UserError: a value is not one of its choices, or a file that it needs is not named.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in CHOICES and value not in CHOICES[field.name]:
                choices = ", ".join(CHOICES[field.name])
                raise UserError(f"text: {field.name} is {value!r}; choose from {choices}")
            if field.type is bool and not isinstance(value, bool):
                raise UserError(f"text: {field.name} is {value!r}; it is true or false")
            if field.type is str and not isinstance(value, str):
                raise UserError(f"text: {field.name} is {value!r}; it has to be text")
        if self.longest is not None and (type(self.longest) is not int or self.longest < 1):
            raise UserError(
                f"text: longest is {self.longest!r}; it is a number of tokens, 1 or more"
            )
        if not self.separator or self.separator != "".join(self.separator.split()):
            raise UserError(f"text: separator is {self.separator!r}; it is text without blanks")
        if self.subwords != "none" and self.codes is None:
            raise UserError(f"text: subwords is {self.subwords!r}, which needs a file, codes")
        if self.case == "truecase" and self.truecase_model is None:
            raise UserError("text: case is 'truecase', which needs a file, truecase_model")
        for form, expression, _ in _items(self.untrained):
            if reason := unusable(expression):
                raise UserError(
                    f"text: untrained: {form}: {expression!r} cannot be used ({reason})"
                )

    @classmethod
    def from_mapping(cls, section: Mapping[str, Any], folder: Path) -> "TextOptions":
        """Read the section ``text:`` of a model.yaml; its files are relative to ``folder``.

        Raises:
            UserError: a key or a value is unknown, or a file is missing.
        """
        known = {field.name: field for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for key, value in section.items():
            if key not in known:
                raise UserError(f"text: unknown key {str(key)!r}; there are: {', '.join(known)}")
            if known[key].type == Path | None and value is not None:
                value = folder / str(value)
                if not value.is_file():
                    raise UserError(f"text: {key}: there is no file {value}")
            values[key] = value
        return cls(**values)

    def to_mapping(self, folder: Path) -> dict[str, Any]:
        """Return the values that differ from the defaults, as :meth:`from_mapping` reads them."""
        section: dict[str, Any] = {"subwords": self.subwords}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                section[field.name] = (
                    os.path.relpath(value, folder) if isinstance(value, Path) else value
                )
        return section

    @property
    def files(self) -> dict[str, Path]:
        """Return the files that the steps read, by the names of their options."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Path)}

    def copy_to(self, folder: Path) -> "TextOptions":
        """Copy the files to ``folder``, glossaries included; return the options that name the copies."""
        copies = {}
        for name, path in self.files.items():
            taken = {copy.name for copy in copies.values()}
            copies[name] = folder / (f"{name}.{path.name}" if path.name in taken else path.name)
            shutil.copyfile(path, copies[name])
            if glossary_path(path).is_file():
                shutil.copyfile(glossary_path(path), glossary_path(copies[name]))
        return dataclasses.replace(self, **copies)

    def segmented(self) -> "TextOptions":
        """Return the options for text in units, as fairseq-generate reads and writes it."""
        return TextOptions(subwords="none", unicode="none", unknown=self.unknown)


class TrainingText:
    """What the options say about the text that trained a model, to warn of sentences unlike it."""

    def __init__(self, options: TextOptions) -> None:
        self._options = options
        self._new = WordCache(self._unseen)

    def _unseen(self, word: str) -> str | None:
        """Return the pattern of a word that the training text lacks, None if it has all."""
        return next((pattern for pattern in patterns(word) if pattern not in self._seen), None)

    def warning(self, sentence: str, tokens: int) -> str:
        """Return why the translation may be wrong, or "".

        Args:
            sentence: as it was entered.
            tokens: how many tokens it has, bos and eos included.
        """
        options = self._options
        if options.longest and tokens > options.longest:
            reason = f"{tokens} tokens, and {options.longest} is the most that it was trained on"
        elif forms := [form for form, more in self._untrained if more(sentence)]:
            reason = f"it was not trained on {', or on '.join(forms)}"
        elif self._seen and (new := [*filter(None, map(self._new.__getitem__, sentence.split()))]):
            reason = f"it was not trained on words like {', '.join(map(repr, new[:3]))}"
        else:
            return ""
        knows = f"this model knows {options.domain}; " if options.domain else ""
        return f"{knows}{reason}: the translation may be wrong"

    @cached_property
    def _untrained(self) -> list[tuple[str, Callable[[str], bool]]]:
        """Each form with a function that finds more of it in a sentence than the training text has."""

        def more(expression: str, most: int) -> Callable[[str], bool]:
            matches, needed = re.compile(expression).finditer, literals(expression)

            def found(sentence: str) -> bool:
                # matches do not overlap, so there are at least as many of these texts, which are found sooner
                if sum(map(sentence.count, needed)) <= most:
                    return False
                return next(islice(matches(sentence), most, None), None) is not None

            return found

        items = _items(self._options.untrained)
        return [(form, more(expression, most)) for form, expression, most in items]

    @cached_property
    def _seen(self) -> frozenset[str]:
        path = self._options.seen
        return frozenset(read_entries(path)) if path else frozenset()
