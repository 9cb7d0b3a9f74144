"""Reads all pairs of a bundle: recognises files by path, reads them, splits sentences and cleans them."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from train_model.data.corpora.en_de.alignment import MOST_CHARACTERS, pair_sentences
from train_model.data.corpora.en_de.catalogues import gettext, json_catalogues
from train_model.data.corpora.en_de.cleaning import Dropped, clean, key
from train_model.data.corpora.en_de.debian import LANGUAGES, members, read_list
from train_model.data.corpora.en_de.descriptions import package_descriptions
from train_model.data.corpora.en_de.documents import Text, lyx_manuals, manuals
from train_model.data.corpora.en_de.manpages import manual_pages

WANTED = re.compile(
    r"""(locale/de(_DE)?/LC_MESSAGES/.*\.mo$)|(resource/de/LC_MESSAGES/.*\.mo$)|(languages/[^/]*de_DE\.mo$)
      |(share/help/(de|C)/.*\.(page|xml|docbook)$)|(doc/HTML/(de|en)/.*\.docbook$)
      |(libreoffice/help/(de|en-US)/text/.*\.html$)
      |(installation-guide-[^/]*/(de|en)/[^/]*\.html$)|(debian-handbook/html/(de-DE|en-US)/[^/]*\.html$)
      |(share/debian-reference/[^/]*\.(de|en)\.html$)|(share/developers-reference/(de/)?[^/]*\.html$)
      |(doc/maint-guide[^/]*/html/[^/]*\.html$)|(debian/FAQ/(de/)?[^/]*\.html$)
      |(share/man/(de/)?man\d/[^/]*\.gz$)|(/i18n/(.*/)?(de|en)\.json$)|(lyx/doc/(de/)?[^/]*\.lyx$)
      |(calibre/localization/locales\.zip$)""",
    re.X,
)
READERS = (gettext, manuals, manual_pages, lyx_manuals, json_catalogues)
_OPTIONS = re.compile(r"\n\s*-+\w")


def read_packages(paths: list[Path]) -> Iterator[Text]:
    """Yield the raw pairs of a bundle's packages."""
    files = {path: data for package in paths for path, data in members(package, WANTED)}
    for reader in READERS:
        yield from reader(files)


def read_descriptions(folder: Path) -> Iterator[Text]:
    """Yield the raw pairs of the package descriptions."""
    return package_descriptions(*(read_list(folder, language) for language in LANGUAGES))


def clean_pairs(
    bundle: str, texts: Iterator[Text], counts: Counter
) -> list[tuple[str, str, str, str]]:
    """Return kind, document, English and German of all distinct clean pairs.

    Args:
        bundle: prefix of the documents' names.
        texts: the raw pairs.
        counts: updated: the number of pairs by outcome; "read" counts all pairs.
    """
    found = {}
    for text in texts:
        if max(len(text.english), len(text.german)) > MOST_CHARACTERS:
            counts["too long"] += 1
            continue
        kind = "story" if bundle.startswith("wesnoth") else text.kind
        for pair in _sentences(kind, text.english, text.german):
            counts["read"] += 1
            try:
                english, german = clean(*pair, interface=kind in ("ui", "story"))
            except Dropped as reason:
                counts[str(reason)] += 1
                continue
            document = f"{bundle}/{text.document}"
            found.setdefault((kind, key(english), key(german)), (kind, document, english, german))
    return list(found.values())


def _sentences(kind: str, english: str, german: str) -> Iterator[tuple[str, str]]:
    """Yield the sentences of a raw pair, paragraph by paragraph; skips lists of options."""
    if kind == "ui" and _OPTIONS.search(english):
        return
    left, right = (
        [part for part in re.split(r"\n\s*\n", text) if part.strip()] for text in (english, german)
    )
    if len(left) != len(right):
        left, right = [english], [german]
    for a, b in zip(left, right, strict=True):
        yield from pair_sentences(" ".join(a.split()), " ".join(b.split()))
