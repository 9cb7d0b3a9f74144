"""Reads manual pages: man's macros and groff's escapes become blocks of plain text."""

import gzip
import io
import re
from collections.abc import Iterator

from train_model.data.corpora.en_de.alignment import MOST_CHARACTERS, Block, align_blocks
from train_model.data.corpora.en_de.documents import Files, Text, bounded, reading

_ESCAPES = {
    **dict.fromkeys("&,/c|^%:)dupa", ""),
    **dict.fromkeys("~ 0t", " "),
    **{character: character for character in "-'`."},
    "e": "\\",
}
_CHARACTERS = {
    **dict.fromkeys(("dq", "lq", "rq", "Fo", "Fc", "Bq"), '"'),
    **dict.fromkeys(("aq", "oq", "cq", "sq"), "'"),
    **dict.fromkeys(("em", "en", "hy", "mi"), "-"),
    **{"bu": "*", "co": "(c)", "ha": "^", "ti": "~", "rs": "\\", "ga": "`", "tm": "", "la": "<", "ra": ">"},
    **{"mu": "x", "->": "->", "<-": "<-", "<=": "<=", ">=": ">="},
    **{"pl": "+", "eq": "=", "==": "==", "!=": "!="},
    **{":a": "ä", ":o": "ö", ":u": "ü", ":A": "Ä", ":O": "Ö", ":U": "Ü", "ss": "ß", "'e": "é", "`e": "è"},
    **{"or": "|", "ba": "|", "bv": "|", "sl": "/", "at": "@", "sh": "#", "Do": "$", "ua": "^"},
}  # fmt: skip
_STRINGS = {"lq": '"', "rq": '"', "R": "", "Aq": "'"}
_FONTS = ("B", "I", "SM", "SB", "BR", "BI", "IB", "IR", "RB", "RI")
_LINK_STARTS, _LINK_ENDS = ("UR", "MT"), ("UE", "ME")
_BREAKS = ("PP", "P", "LP", "HP", "RS", "RE", "sp", "Sp", "br", "TQ")
# Macros whose contents are not text, with the macros that end them.
_VERBATIM = {"Vb": "Ve", "nf": "fi|EE", "EX": "fi|EE", "TS": "TE", "EQ": "EN"}
_DEFINITIONS = ("de", "ig")
_JOIN = "\x01"  # the following text belongs to the same word


def groff_text(line: str) -> str:
    """Return the characters that groff prints for a line without macros."""
    line = re.sub(r'\\".*$', "", line)
    found, at = [], 0
    while at < len(line):
        if line[at] != "\\" or at + 1 >= len(line):
            found.append(line[at])
            at += 1
        else:
            text, at = _escape(line, at)
            found.append(text)
    return "".join(found)


def _escape(line: str, at: int) -> tuple[str, int]:
    """Return the text that the escape at a backslash prints, and the position after it."""
    name = line[at + 1]
    if name in "f*nFm":
        match = re.match(r"\\[f*nFm](\[[^\]]*\]|\(..|.)", line[at:])
        text = _STRINGS.get(match[1].strip("[]("), "") if name == "*" and match else ""
        return text, at + (match.end() if match else 2)
    if name == "(":
        return _CHARACTERS.get(line[at + 2 : at + 4], ""), at + 4
    if name == "[":
        end = line.find("]", at)
        character = line[at + 2 : end]
        code = re.fullmatch(r"u([0-9A-F]{4,5})", character)
        text = _CHARACTERS.get(character, chr(int(code[1], 16)) if code else "")
        return text, end + 1 if end > 0 else len(line)
    if name == "s" or name in "hvwlLDZ":
        match = re.match(r"\\s[-+]?\d" if name == "s" else r"\\.'[^']*'", line[at:])
        return "", at + (match.end() if match else 2)
    return _ESCAPES.get(name, ""), at + 2


def _arguments(text: str) -> list[str]:
    found = re.findall(r'"(?:[^"]|"")*"|(?:\\.|[^\s"])+', text)
    return [a[1:-1].replace('""', '"') if a.startswith('"') else a for a in found]


class _Page:
    """Collects the blocks of a page, line by line."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._lines: list[str] = []
        self._until: str | None = None  # the macros that end the skipped part
        self._tag_next = False

    def flush(self, kind: str = "p") -> None:
        text = re.sub(r"\s+", " ", " ".join(self._lines)).strip()
        text = re.sub(f" ?{_JOIN} ?", "", text)
        if text:
            self.blocks.append((kind, text))
        self._lines = []

    def read(self, line: str) -> None:
        if self._until:
            if re.match(rf"[.'](?:{self._until})(?!\w)", line):
                self._until = None
        elif line.startswith(('.\\"', "'\\\"")):
            pass
        elif match := re.match(r"[.']\s*([A-Za-z]+)\s*(.*)$", line):
            self._macro(match[1], match[2])
        elif not line.startswith((".", "'")):
            self._text(line)

    def _text(self, line: str) -> None:
        if not line.strip():
            self.flush()
            return
        self._lines.append(groff_text(line).strip() + (_JOIN if line.endswith("\\c") else ""))
        self._end_of_tag()

    def _end_of_tag(self) -> None:
        if self._tag_next:
            self.flush("tag")
            self._tag_next = False

    def _macro(self, name: str, rest: str) -> None:
        if name in _FONTS:
            joint = "" if len(name) == 2 and name not in ("SM", "SB") else " "
            if text := joint.join(map(groff_text, _arguments(rest))):
                self._lines.append(text)
            self._end_of_tag()
        elif name in _LINK_ENDS:
            if self._lines:
                self._lines[-1] += " ".join(map(groff_text, _arguments(rest)))
        elif name in ("SH", "SS"):
            self.flush()
            if text := groff_text(" ".join(_arguments(rest))):
                self.blocks.append(("h", text))
        elif name == "TP":
            self.flush()
            self._tag_next = True
        elif name == "IP":
            self.flush()
            tag = [groff_text(argument).strip() for argument in _arguments(rest)[:1]]
            self.blocks += [("tag", text) for text in tag if text]
        elif name in _BREAKS:
            self.flush()
        elif name in _VERBATIM:
            self.flush()
            self._until = _VERBATIM[name]
        elif name in _DEFINITIONS:
            self._until = r"\."


def man_blocks(data: bytes) -> list[Block]:
    """Return the blocks of a compressed page; none if it uses BSD's macros or includes another page.

    Lines of more than ``MOST_CHARACTERS`` are left out.
    """
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        text = bounded(file).decode("utf-8", "replace").replace("\\\n", "")
    if re.search(r"^\.Dd|^\.Sh", text, re.M) or text.startswith(".so"):
        return []
    page = _Page()
    for line in text.split("\n"):
        if len(line) <= MOST_CHARACTERS:
            page.read(line)
    page.flush()
    return page.blocks


def manual_pages(files: Files) -> Iterator[Text]:
    """Yield the paragraphs of German pages and of the English pages of the same names."""
    english = {
        match[1]: data
        for path, data in files.items()
        if (match := re.search(r"/man/man\d\w*/([^/]+)\.gz$", path))
    }
    for path, data in sorted(files.items()):
        match = re.search(r"/man/de/man\d\w*/([^/]+)\.gz$", path)
        if match and match[1] in english:
            with reading(path):
                both = man_blocks(english[match[1]]), man_blocks(data)
            for pair in align_blocks(*both):
                yield Text("man", f"man/{match[1]}", *pair)
