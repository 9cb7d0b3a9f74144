"""Reads manuals: HTML, DocBook, Mallard and LyX documents in both languages."""

import contextlib
import html
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import IO, NamedTuple

from train_model.cli import UserError
from train_model.data.corpora.en_de.alignment import DROP, MOST_CHARACTERS, Block, align_blocks
from train_model.data.corpora.en_de.packages import words

Files = Mapping[str, bytes]
"""The files of a bundle's packages by path."""

MOST_BYTES = 1 << 24
"""The most bytes of a document or catalogue; the longest known one has 0.9 MB."""
_DAMAGE = (EOFError, LookupError, OSError, RecursionError, ValueError, struct.error, zlib.error)


class Text(NamedTuple):
    """A raw pair: its kind, the document that it comes from, and both languages."""

    kind: str
    document: str
    english: str
    german: str


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Report the errors of code that reads the file ``path`` of a package.

    Raises:
        UserError: the code inside raised one of the errors that damaged files cause.
    """
    try:
        yield
    except (*_DAMAGE, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} in a package cannot be read ({error}); delete the package and fetch it again"
        ) from error


def bounded(file: IO[bytes]) -> bytes:
    """Return the content of an opened file; raises ``ValueError`` for more than ``MOST_BYTES``."""
    if len(data := file.read(MOST_BYTES + 1)) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    return data


class Element(NamedTuple):
    """The text of an element, without nested elements that are separate blocks."""

    tag: str
    id: str | None
    text: str


_BLOCKS = words(
    """p h1 h2 h3 h4 h5 h6 li dt dd td th caption blockquote div table ul ol dl tr body section para
    simpara title term entry listitem varlistentry row sect1 sect2 sect3 sect4 chapter note tip
    warning caution important itemizedlist orderedlist variablelist informaltable tgroup thead tbody
    item desc page steps list terms procedure step subtitle answer question qandaentry figure
    screenshot mediaobject subject"""
)
_SKIPPED = words(
    """script style pre head nav aside noscript programlisting screen synopsis literallayout
    cmdsynopsis indexterm authorgroup othercredit address footnote remark comment legalnotice credit
    revision revhistory date releaseinfo pubdate copyright keywordset license mal:credit textobject
    guimenu_ media svg math equation informalequation author editor email button"""
)
# Entities of KDE's manuals for keys, credits or licences.
_KDE_DROPPED = re.compile(
    r"^(LMB|RMB|MMB|Ctrl|Alt|Shift|Enter|Esc|Tab|Del|Ins|Home|End|Space|Backspace|F\d+|ROLES|CREDIT|underGPL|"
    r"underFDL|install\.\w+|documentation\.index|reporting\.bugs|updating\.documentation)"
)


class _Parser(HTMLParser):
    """Collects the elements of a document with markup; broken nesting is tolerated."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.elements: list[Element] = []
        self._text: list[str] = []
        self._open: list[tuple[str, str | None]] = []
        self._skipped: list[str] = []
        self._in_menu = False

    def flush(self) -> None:
        text = re.sub(r"\s+", " ", "".join(self._text)).strip()
        self._text = []
        if text:
            self.elements.append(Element(*(self._open[-1] if self._open else ("", None)), text))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        attributes = dict(attrs)
        if self._skipped:
            if tag == self._skipped[-1]:
                self._skipped.append(tag)
        elif tag in _SKIPPED or (tag == "span" and attributes.get("class") in ("MAC", "WIN")):
            self._skipped = [tag]
        elif tag in ("guisubmenu", "guimenuitem"):
            if self._in_menu and re.search(r"\w\s*$", "".join(self._text[-2:])):
                self._text.append(" - ")
        elif tag == "menuchoice":
            self._in_menu = True
        elif tag in _BLOCKS:
            self.flush()
            self._open.append((tag, attributes.get("id")))
        elif tag == "br":
            self._text.append(" ")

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        if tag == "br" and not self._skipped:
            self._text.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            if tag == self._skipped[-1]:
                self._skipped.pop()
            return
        if tag == "menuchoice":
            self._in_menu = False
        if tag in _BLOCKS:
            self.flush()
            for index in reversed(range(len(self._open))):
                if self._open[index][0] == tag:
                    del self._open[index:]
                    break

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._text.append(data)

    def handle_charref(self, name: str) -> None:
        self.handle_data(html.unescape(f"&#{name};"))

    def handle_entityref(self, name: str) -> None:
        text = html.unescape(f"&{name};")
        if text != f"&{name};":
            self.handle_data(text)
        elif _KDE_DROPPED.match(name):
            self.handle_data(DROP)
        else:  # e.g. &kate; means Kate
            self.handle_data({"kde": "KDE"}.get(name, name[:1].upper() + name[1:]))


def elements(data: bytes) -> list[Element]:
    """Return the elements of an HTML, DocBook or Mallard document."""
    latin = "iso-8859-1" in data[:600].decode("latin-1").lower()
    text = data.decode("latin-1" if latin else "utf-8", "replace")
    parser = _Parser()
    parser.feed(re.sub(r"<(\w+)\s+>", r"<\1>", text))
    parser.close()
    parser.flush()
    return parser.elements


_FOLDERS = (
    ("/share/help/de/", "/share/help/C/"),
    ("/doc/HTML/de/", "/doc/HTML/en/"),
    ("/libreoffice/help/de/", "/libreoffice/help/en-US/"),
    ("/html/de-DE/", "/html/en-US/"),
    ("/developers-reference/de/", "/developers-reference/"),
)
_FORMATS = (".html", ".page", ".xml", ".docbook")


def english_path(path: str) -> str | None:
    """Return the path of a German document's English edition, or None for other files."""
    for german, english in _FOLDERS:
        if german in path:
            return path.replace(german, english)
    if "installation-guide" in path and "/de/" in path:
        return path.replace("/de/", "/en/")
    if path.endswith(".de.html"):
        path = path.replace("/maint-guide-de/", "/maint-guide/").replace("/FAQ/de/", "/FAQ/")
        return path.replace(".de.html", ".en.html")
    return None


def _kind(path: str) -> str:
    for mark, kind in (
        ("libreoffice", "lohelp"),
        ("/HTML/", "kdedoc"),
        ("/share/help/", "gnomehelp"),
    ):
        if mark in path:
            return kind
    return "book"


def manuals(files: Files) -> Iterator[Text]:
    """Yield the paragraphs of manuals, paired by the elements' ids (LibreOffice) or by order (others)."""
    for path, data in sorted(files.items()):
        other = english_path(path)
        if other not in files or other == path or not path.endswith(_FORMATS):
            continue
        if "/developers-reference.html" in path or "/index.de.html" in path:
            continue
        with reading(path):
            english, german = elements(files[other]), elements(data)
        kind, document = _kind(path), re.sub(r"^/usr/share/(doc/)?", "", path)
        if kind == "lohelp":
            by_id = {element.id: element.text for element in english if element.id}
            pairs = [(by_id[e.id], e.text) for e in german if e.id and e.id in by_id]
        else:
            left, right = ([(e.tag, e.text) for e in side] for side in (english, german))
            pairs = align_blocks(left, right)
        for pair in pairs:
            yield Text(kind, document, *pair)


_LYX_LAYOUT = re.compile(r"\\begin_layout ([\w* ]+)\n")
_LYX_NAMES = {"ldots": "...", "menuseparator": " - ", "endofsentence": "."}


def _layouts(text: str) -> Iterator[tuple[str, str]]:
    """Yield layout and content of the paragraphs of a LyX document.

    One expression for both would search the rest of the text from every paragraph without an end.
    """
    at = text.find("\\begin_body")
    while at >= 0 and (start := _LYX_LAYOUT.search(text, at)):
        at = text.find("\n\\end_layout", start.end())
        if at >= 0:
            yield start[1], text[start.end() : at]


def lyx_blocks(data: bytes) -> list[Block]:
    """Return the paragraphs of a LyX document by their layouts."""
    text = data.decode("utf-8", "replace")
    blocks = []
    for layout, content in _layouts(text):
        if len(content) > MOST_CHARACTERS:
            blocks.append((layout, DROP))
            continue
        content = re.sub(r"\\begin_inset Quotes[^\n]*\n.*?\\end_inset", '"', content, flags=re.S)
        content = re.sub(
            r"\\begin_inset (?:space|Newline)[^\n]*\n.*?\\end_inset", " ", content, flags=re.S
        )
        unread = re.search(r"inset|begin_layout|^status |LatexCommand", content, re.M)
        content = re.sub(r"\\SpecialChar +(\w+)", _lyx_name, content)
        content = re.sub(r"^\\[a-z_]+.*$", "", content, flags=re.M)
        # LyX breaks lines inside sentences; a line that starts with a space follows a whole word
        content = re.sub(r"\s+", " ", content.replace("\n", "")).strip()
        if content or unread:
            blocks.append((layout, DROP if unread else content))
    return blocks


def _lyx_name(match: re.Match) -> str:
    name = match[1]
    return name if name in ("LyX", "TeX", "LaTeX") else _LYX_NAMES.get(name, "")


def lyx_manuals(files: Files) -> Iterator[Text]:
    """Yield the paragraphs of LyX' own manuals."""
    for path, data in sorted(files.items()):
        other = path.replace("/de/", "/")
        if "/lyx/doc/de/" in path and other in files:
            for pair in align_blocks(lyx_blocks(files[other]), lyx_blocks(data)):
                yield Text("book", path.split("/share/")[1], *pair)
