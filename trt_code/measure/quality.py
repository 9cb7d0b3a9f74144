"""Details of translation quality: confidence intervals, kinds of text, lengths, and common failures."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu

from train_model.cli import UserError
from train_model.data.files import read_lines
from train_model.data.tokenizer import Tokenizer
from train_model.tables import Column, Table, facts, markdown_table
from trt_code.text.codec import Translation

SAMPLES = 1000
"""Bootstrap samples of a confidence interval."""
LENGTHS = ((1, 5), (6, 10), (11, 20), (21, 40), (41, None))
"""Groups of sentences by the words of the source."""
FEWEST = 20
"""Fewest sentences of a group with a score."""


def details(
    sources: Sequence[str],
    references: Sequence[str],
    translations: Sequence[Translation],
    tokenizer: Tokenizer,
    kinds: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what a single score does not show.

    Args:
        kinds: the kind of text of each sentence, or nothing.

    Returns:
        ``bleu_interval``, ``chrf_interval``: mean and half width of the 95 % confidence interval.
        ``repeated``, ``empty``: percentages of translations with a word twice in a row, or without text.
        ``within_1``, ``within_2``: percentages of translations with at most that many more or fewer tokens
        than the reference; ``length_error``: the mean difference. ``brevity_penalty``.
        ``kinds``, ``lengths``: sentences and BLEU of each group; None for BLEU of fewer than ``FEWEST``.
    """
    texts = [translation.text for translation in translations]
    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
    whole = bleu.corpus_score(texts, [references], n_bootstrap=SAMPLES)
    letters = chrf.corpus_score(texts, [references], n_bootstrap=SAMPLES)
    errors = np.array(
        [
            translation.tokens - len(tokenizer.target_units(reference)) - 2
            for translation, reference in zip(translations, references, strict=True)
        ]
    )

    def group(chosen: Callable[[int], bool]) -> dict[str, Any]:
        rows = [i for i in range(len(texts)) if chosen(i)]
        few = len(rows) < FEWEST
        own = [texts[i] for i in rows], [[references[i] for i in rows]]
        value = None if few else round(sacrebleu.BLEU().corpus_score(*own).score, 3)
        return {"sentences": len(rows), "bleu": value}

    words = [len(source.split()) for source in sources]
    return {
        "bleu_interval": _interval(whole),
        "chrf_interval": _interval(letters),
        "chrf_signature": str(chrf.get_signature()),
        "bleu_bootstrap_signature": str(bleu.get_signature()),
        "brevity_penalty": round(whole.bp, 4),
        "repeated": _percentage([repeats_a_word(text) for text in texts]),
        "empty": _percentage([not text.strip() for text in texts]),
        "within_1": _percentage(abs(errors) <= 1),
        "within_2": _percentage(abs(errors) <= 2),
        "length_error": round(float(errors.mean()), 3),
        "kinds": {
            kind: group(lambda i, kind=kind: kinds[i] == kind) for kind in sorted(set(kinds))
        },
        "lengths": {
            f"{first} to {last}" if last else f"{first} and more": group(
                lambda i, first=first, last=last: first <= words[i] <= (last or words[i])
            )
            for first, last in LENGTHS
        },
    }


def repeats_a_word(text: str) -> bool:
    """Return whether a word occurs twice in a row."""
    words = text.split()
    return any(one == other for one, other in itertools.pairwise(words))


def read_kinds(source: Path) -> list[str]:
    """Return the kind of text of each sentence: the first column of the .tsv file next to a split, if any.

    Args:
        source: the split's source.

    Raises:
        UserError: the files have different numbers of lines.
    """
    path = source.with_suffix(".tsv")
    if not path.is_file():
        return []
    kinds, count = [line.split("\t")[0] for line in read_lines(path)], len(list(read_lines(source)))
    if len(kinds) != count:
        raise UserError(f"{path} has {len(kinds)} lines, and {source} {count}; get them again")
    return kinds


def markdown(title: str, results: Mapping[str, Any]) -> str:
    """Return results as a Markdown page; their rows have a score and :func:`details`."""
    rows = results["rows"]
    lines = [f"# {title}", "", *facts(results["machine"])]
    settings = ("split", "sentences", "candidates", "judge", "parts")
    lines += [*facts({name: results[name] for name in settings if name in results}), ""]
    lines += [*_TABLE.markdown(rows), ""]
    lines += [
        f"Intervals: 95 %, {SAMPLES} bootstrap samples. Repeated: translations with a word twice in a row. "
        "Length: translations with as many tokens as the reference, with at most 1 or 2 more or fewer, and "
        "the mean difference.",
        "",
    ]
    for key, heading in (
        ("kinds", "BLEU by kind of text"),
        ("lengths", "BLEU by words of the source"),
    ):
        if groups := rows[0][key]:
            counts = ["sentences", *(str(group["sentences"]) for group in groups.values())]
            cells = [[row["name"], *(_score(row[key][name]) for name in groups)] for row in rows]
            lines += [f"## {heading}", "", *markdown_table(["", *groups], [counts, *cells]), ""]
    signatures = ("bleu_bootstrap_signature", "chrf_signature")
    return "\n".join([*lines, *(f"    {rows[0][name]}" for name in signatures), ""])


def _score(group: Mapping[str, Any]) -> str:
    return "-" if group["bleu"] is None else f"{group['bleu']:.1f}"


def _interval(score: Any) -> tuple[float, float]:
    return round(float(score._mean), 3), round(float(score._ci), 3)


def _percentage(values: Sequence[bool] | np.ndarray) -> float:
    return round(100 * float(np.mean(values)), 3)


def _shown(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: f"{row[key][0] - row[key][1]:.1f} to {sum(row[key]):.1f}"


_TABLE = Table(
    [
        Column("", "name", left=True),
        Column("BLEU", "bleu", ".2f"),
        Column("interval", _shown("bleu_interval")),
        Column("chrF", "chrf", ".2f"),
        Column("interval", _shown("chrf_interval")),
        Column("brevity penalty", "brevity_penalty", ".3f"),
        Column("exact %", "exact_match", ".1f"),
        Column("repeated %", "repeated", ".1f"),
        Column("empty %", "empty", ".1f"),
        Column("length %", "length_accuracy", ".1f"),
        Column("within 1", "within_1", ".1f"),
        Column("within 2", "within_2", ".1f"),
        Column("mean", "length_error", "+.2f"),
        Column("sentences/s", "sentences_per_s", ".0f"),
    ]
)
