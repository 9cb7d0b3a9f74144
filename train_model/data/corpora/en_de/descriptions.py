"""Reads Debian's package descriptions from the lists Translation-en and Translation-de."""

import re
from collections.abc import Iterator

from train_model.data.corpora.en_de.alignment import MOST_CHARACTERS, Block, align_blocks
from train_model.data.corpora.en_de.documents import Text

_PREFIX = re.compile(r"^(lib|python3?-|ruby-|golang-|node-|r-cran-|haskell-|php-)")


def package_descriptions(english: str, german: str) -> Iterator[Text]:
    """Yield the paragraphs of descriptions in both lists, paired by the checksum of the English one."""
    known = _stanzas(english, "en")
    for checksum, (package, description) in _stanzas(german, "de").items():
        if checksum in known:
            blocks = _blocks(known[checksum][1]), _blocks(description)
            for pair in align_blocks(*blocks):
                yield Text("ddtp", _document(package), *pair)


def english_paragraphs(english: str, german: str) -> Iterator[tuple[str, str]]:
    """Yield document and paragraph of the descriptions that only the English list has."""
    translated = _stanzas(german, "de")
    for checksum, (package, description) in _stanzas(english, "en").items():
        if checksum not in translated:
            for kind, text in _blocks(description):
                if kind != "v" and len(text) <= MOST_CHARACTERS:
                    yield _document(package), text


def _document(package: str) -> str:
    """Return the document of a package's description; packages of one source have similar names."""
    stem = _PREFIX.sub("", package).split("-")[0].rstrip("0123456789.")
    return f"ddtp/{stem or package}"


def _stanzas(text: str, language: str) -> dict[str, tuple[str, str]]:
    """Return package and description by checksum; the first package with a description counts."""
    found: dict[str, tuple[str, str]] = {}
    for stanza in text.split("\n\n"):
        checksum = re.search(r"^Description-md5: (\w+)", stanza, re.M)
        package = re.search(r"^Package: (\S+)", stanza, re.M)
        _, field, description = stanza.partition(f"Description-{language}:")
        if checksum and package and field:
            found.setdefault(checksum[1], (package[1], description))
    return found


def _blocks(description: str) -> list[Block]:
    """Return the title, paragraphs, items of lists and verbatim lines of a description."""
    title, *lines = description.split("\n")
    blocks = [("s", title.strip())]
    kind = ""  # kind of the block that the next line continues
    for line in lines:
        line = line.removeprefix(" ")
        item = re.match(r"\s*[-*+o•]\s+", line)
        if line.strip() in (".", ""):
            kind = ""
        elif item:
            kind = "b"
            blocks.append((kind, line[item.end() :].strip()))
        elif line.startswith(" ") and kind != "b":
            kind = ""
            blocks.append(("v", line.strip()))
        elif not kind:
            kind = "p"
            blocks.append((kind, line.strip()))
        elif len(blocks[-1][1]) <= MOST_CHARACTERS:
            blocks[-1] = (kind, f"{blocks[-1][1]} {line.strip()}")
    return blocks
