"""Aligns two lists of text blocks, and the sentences of two paragraphs."""

import math
import re
from typing import NamedTuple

# Text that stays the same in a translation: numbers, paths, names in capitals.
_MARKS = re.compile(r"[A-Za-z0-9_./-]*[0-9_/][A-Za-z0-9_./-]*|\b[A-Z][A-Za-z]*[A-Z]\w*")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|approx|resp|Mr|Mrs|Dr|St|No|Fig|incl|z\.\s?B|d\.\s?h|u\.\s?a|o\.\s?ä|u\.\s?U|"
    r"i\.\s?d\.\s?R|s\.\s?o|s\.\s?u|z\.\s?T|v\.\s?a|usw|bzw|ca|evtl|ggf|Nr|Abb|vgl|bspw|inkl|sog|ggfs|max|min|"
    r"Kap|Abschn|Bsp|engl|dt|Std|Tel|Inc|Ltd|Co|Corp|ff)|\b\w|\d)\.$"
)
_SENTENCE_END = re.compile(r"[.!?][\"'”“»)\]]*\s+(?=[\"'„“«(\[]?[A-ZÄÖÜ0-9])")
GAP, LEAST_SCORE, BAND = -0.25, 0.1, 60
DROP = "\x00"
"""Replaces unreadable parts of a text; cleaning drops the pair."""
MOST_CHARACTERS = 20_000
"""The most characters of a paragraph; the expressions for marks and markup take the square of its length."""
MOST_CELLS = 10**7
"""The most pairs of blocks that are compared; documents of more blocks are left out."""

Block = tuple[str, str]
"""A block: its kind, such as an element's name, and its text."""


class _Features(NamedTuple):
    kind: str
    size: int
    marks: frozenset[str]
    text: str

    @classmethod
    def of(cls, block: Block) -> "_Features":
        kind, text = block
        return cls(kind, len(text), frozenset(_MARKS.findall(text)), text)


def _score(english: _Features, german: _Features) -> float:
    if english.kind != german.kind:
        return -2.0
    # German is longer by an eighth
    score = 1.0 - 1.5 * abs(math.log((german.size + 8) / (1.12 * english.size + 8)))
    if english.marks or german.marks:
        common, every = english.marks & german.marks, english.marks | german.marks
        score += 1.2 * len(common) / len(every) - 0.4
    return score


def align_blocks(english: list[Block], german: list[Block]) -> list[tuple[str, str]]:
    """Pair blocks one to one, by dynamic programming where their kinds differ.

    The score of a pair falls with the difference of the lengths and rises with common numbers and names.
    A text of more than ``MOST_CHARACTERS`` becomes ``DROP``.
    """
    english, german = (
        [(kind, text if len(text) <= MOST_CHARACTERS else DROP) for kind, text in side]
        for side in (english, german)
    )
    if not english or not german:
        return []
    if [kind for kind, _ in english] == [kind for kind, _ in german]:
        return [(a, b) for (_, a), (_, b) in zip(english, german, strict=True)]
    if len(english) * (BAND + abs(len(english) - len(german))) > MOST_CELLS:
        return []
    left, right = list(map(_Features.of, english)), list(map(_Features.of, german))
    return _trace_back(left, right, _moves(left, right))


def _moves(left: list[_Features], right: list[_Features]) -> list[dict[int, str]]:
    """Return the best last move to each cell near the diagonal: "pair", or the skipped side."""
    rows, columns = len(left), len(right)
    width = BAND + abs(rows - columns)
    scores = {column: GAP * column for column in range(min(columns, width) + 1)}
    moves: list[dict[int, str]] = [{}]
    for row in range(1, rows + 1):
        centre = row * columns // rows
        before, scores, found = scores, {}, {}
        for column in range(max(0, centre - width), min(columns, centre + width) + 1):
            best, move = -1e9, ""
            if column in before:
                best, move = before[column] + GAP, "left"
            if column - 1 in scores and scores[column - 1] + GAP > best:
                best, move = scores[column - 1] + GAP, "right"
            if column - 1 in before:
                paired = before[column - 1] + _score(left[row - 1], right[column - 1])
                if paired > best:
                    best, move = paired, "pair"
            scores[column], found[column] = best, move
        moves.append(found)
    return moves


def _trace_back(
    left: list[_Features], right: list[_Features], moves: list[dict[int, str]]
) -> list[tuple[str, str]]:
    pairs = []
    row, column = len(left), len(right)
    while row and column:
        move = moves[row].get(column, "right")
        if move == "pair":
            a, b = left[row - 1], right[column - 1]
            if _score(a, b) > LEAST_SCORE:
                pairs.append((a.text, b.text))
        row -= move in ("pair", "left")
        column -= move in ("pair", "right")
    return pairs[::-1]


def sentences(text: str) -> list[str]:
    """Split a paragraph after full stops that do not end an abbreviation."""
    found, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        head = text[start : match.start() + 1]
        if match[0][0] == "." and _ABBREVIATION.search(head):
            continue
        found.append(text[start : match.end()].strip())
        start = match.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def pair_sentences(english: str, german: str) -> list[tuple[str, str]]:
    """Pair the sentences if both sides have equally many, of similar lengths; else pair the paragraphs."""
    left, right = sentences(english), sentences(german)
    if len(left) == len(right) > 1:
        pairs = list(zip(left, right, strict=True))
        if all(0.4 < (len(b) + 10) / (len(a) + 10) < 2.6 for a, b in pairs):
            return pairs
    return [(english, german)]
