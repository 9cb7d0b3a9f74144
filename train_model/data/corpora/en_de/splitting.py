"""Splits pairs into train, valid and test by bundle and document, without repetitions or near copies."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from train_model.data.corpora.en_de import packages
from train_model.data.corpora.en_de.cleaning import key

_PREFERENCE = ["lohelp", "gnomehelp", "book", "kdedoc", "man", "ddtp", "story", "ui"]
"""Priority of the kinds of text: a text of several kinds is counted under the first."""

NGRAM, NEAR = 4, 0.5
"""The share of a text's word n-grams, in common with a held-out text, that makes it a near copy."""


class Row(NamedTuple):
    """A clean pair, where it comes from, and its keys for comparing."""

    kind: str
    bundle: str
    document: str
    english: str
    german: str
    english_key: str
    german_key: str

    @classmethod
    def of(cls, bundle: str, kind: str, document: str, english: str, german: str) -> "Row":
        return cls(kind, bundle, document, english, german, key(english), key(german))


class Split(NamedTuple):
    """The three splits, and the number of training pairs removed for each reason."""

    rows: dict[str, list[Row]]
    dropped: Counter


def split(rows: Iterable[Row]) -> Split:
    """Split the rows. The same rows give the same splits in the same order."""
    order = {kind: index for index, kind in enumerate(_PREFERENCE)}
    rows = sorted(rows, key=lambda r: (order[r.kind], r.bundle, r.document, r.english, r.german))
    votes = Counter((row.english_key, row.german_key) for row in rows)
    sides = defaultdict(list)
    for row in rows:
        sides[split_of(row)].append(row)
    held: dict[str, list[Row]] = {}
    english: set[str] = set()
    german: set[str] = set()
    for side in ("test", "valid"):
        candidates = defaultdict(list)
        for row in _unique(sides[side], votes):
            words = min(len(row.english.split()), len(row.german.split()))
            new = row.english_key not in english and row.german_key not in german
            if words >= packages.MIN_WORDS and new:
                candidates[row.kind].append(row)
        chosen = []
        for kind, quota in packages.QUOTA.items():
            chosen += sorted(
                candidates[kind], key=lambda r: _hash(f"{r.english_key}|{r.german_key}", 1 << 40)
            )[:quota]
        held[side] = sorted(chosen, key=lambda row: _hash(row.english, 1 << 40))
        english |= {row.english_key for row in chosen}
        german |= {row.german_key for row in chosen}
    near_english, near_german = Near(english), Near(german)
    train, dropped = [], Counter()
    for row in _unique(sides["train"], votes):
        if row.english_key in english or row.german_key in german:
            dropped["same as held out"] += 1
        elif row.english_key in near_english or row.german_key in near_german:
            dropped["near to held out"] += 1
        else:
            train.append(row)
    train.sort(key=lambda row: _hash(row.english + row.german, 1 << 40))
    return Split({"train": train, "valid": held["valid"], "test": held["test"]}, dropped)


def _hash(text: str, size: int = 1000) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) % size


def split_of(row: Row) -> str:
    """Return the split that the row's bundle or document belongs to."""
    for side, names in packages.HELD_OUT.items():
        if row.bundle in names:
            return side
    quota = packages.HELD_OUT_DOCUMENTS.get(row.kind, 0)
    if row.bundle in packages.HELD_OUT_COLLECTIONS and quota:
        value = _hash(row.document)
        return "test" if value < quota else "valid" if value < 2 * quota else "train"
    return "train"


def _unique(rows: list[Row], votes: Counter) -> list[Row]:
    """Keep the most frequent German text for each English text, then one English text for each German."""
    best: dict[str, Row] = {}
    for row in rows:
        known = best.setdefault(row.english_key, row)
        ours, theirs = (votes[r.english_key, r.german_key] for r in (row, known))
        if ours > theirs:
            best[row.english_key] = row
    seen: set[str] = set()
    return [
        row for row in best.values() if row.german_key not in seen and not seen.add(row.german_key)
    ]


class Near:
    """Finds texts that share enough word n-grams with one of ``texts``."""

    def __init__(self, texts: set[str]) -> None:
        self._sizes: list[int] = []
        self._places = defaultdict(list)
        for text in sorted(texts):
            ngrams = _ngrams(text)
            for ngram in ngrams:
                self._places[ngram].append(len(self._sizes))
            self._sizes.append(len(ngrams))

    def __contains__(self, text: str) -> bool:
        ngrams = _ngrams(text)
        common = Counter(place for ngram in ngrams for place in self._places.get(ngram, ()))
        return any(
            count >= NEAR * min(len(ngrams), self._sizes[place]) for place, count in common.items()
        )


def _ngrams(text: str) -> set[str]:
    words = text.split()
    return {" ".join(words[at : at + NGRAM]) for at in range(len(words) - NGRAM + 1)}
