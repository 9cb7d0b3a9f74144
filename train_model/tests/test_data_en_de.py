"""The corpus en-de, from tiny packages that the tests make."""

import gzip
import io
import json
import random
import re
import struct
import tarfile
import time
from collections import Counter

import pytest

from train_model.cli import UserError
from train_model.data.binary import check_binary
from train_model.data.corpora.en_de import (
    alignment,
    cleaning,
    debian,
    english,
    packages,
    pieces,
    prepare_english,
    prepare_sampled,
    readers,
    splitting,
)
from train_model.data.corpora.en_de import prepare as prepare_corpus
from train_model.data.corpora.en_de.alignment import align_blocks, pair_sentences, sentences
from train_model.data.corpora.en_de.catalogues import read_mo
from train_model.data.corpora.en_de.descriptions import package_descriptions
from train_model.data.corpora.en_de.documents import Text, elements, lyx_blocks
from train_model.data.corpora.en_de.manpages import groff_text, man_blocks
from train_model.data.corpora.en_de.splitting import Row
from train_model.data.dictionary import Dictionary

SYMBOLS = 88


WORDS = ["file", "folder", "window", "page", "image", "key", "list", "value", "name", "table"]
WORTE = ["Datei", "Ordner", "Fenster", "Seite", "Bild", "Taste", "Liste", "Wert", "Name", "Tabelle"]


def mo(pairs):
    """A compiled catalogue."""
    pairs = [("", "Content-Type: text/plain; charset=UTF-8\n"), *pairs]
    strings = [[text.encode() for text in column] for column in zip(*pairs, strict=True)]
    size = 28
    tables, data = [], b""
    start = size + 16 * len(pairs)
    for column in strings:
        for text in column:
            tables.append(struct.pack("<2I", len(text), start + len(data)))
            data += text + b"\0"
    header = struct.pack("<7I", 0x950412DE, 0, len(pairs), size, size + 8 * len(pairs), 0, start)
    return header + b"".join(tables) + data


def deb(path, files, compression="xz"):
    """A package with these files: an ar archive around a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f".{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    archive = b"!<arch>\n"
    parts = {"debian-binary": b"2.0\n", f"data.tar.{compression}": buffer.getvalue()}
    for name, content in parts.items():
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        archive += content + b"\n" * (len(content) % 2)
    path.write_bytes(archive)


@pytest.mark.parametrize("compression", ["xz", "gz", "bz2"])
def test_members_of_a_package_are_those_with_a_path_that_matches(tmp_path, compression):
    path = tmp_path / "a_1.0_all.deb"
    files = {"/usr/share/a.txt": b"yes", "/usr/share/b.bin": b"no", "/etc/c.txt": b"also"}
    deb(path, files, compression)
    found = dict(debian.members(path, re.compile(r"\.txt$")))
    assert found == {"/usr/share/a.txt": b"yes", "/etc/c.txt": b"also"}


@pytest.mark.parametrize("damage", ["cut", "text", "empty archive"])
def test_a_damaged_package_is_named_in_one_line(tmp_path, damage):
    path = tmp_path / "a_1.0_all.deb"
    deb(path, {"/a.txt": b"x" * 5000})
    content = path.read_bytes()
    damaged = {"cut": content[:-60], "text": b"<html>", "empty archive": b"!<arch>\n"}
    path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match=r"a_1.0_all.deb is damaged .*delete it"):
        list(debian.members(path, re.compile("txt")))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("data.tar.xz     0           0     0     100644  -1        `", "has -1 bytes"),
        ("other           0           0     0     100644  -60       `", "has -60 bytes"),
        ("data.tar.xz     0           0     0     100644  9999999999`", "cut off"),
        ("other           0           0     0     100644  ten       `", "invalid literal"),
    ],
)
def test_a_package_with_another_size_than_its_header_says(tmp_path, header, reason):
    """A negative size led back to the same header, for ever."""
    path = tmp_path / "a_1.0_all.deb"
    path.write_bytes(b"!<arch>\n" + header.encode() + b"\n" + b"x" * 100)
    with pytest.raises(UserError, match=f"a_1.0_all.deb is damaged .*{reason}"):
        list(debian.members(path, re.compile("txt")))


def test_a_package_with_other_compression_or_a_huge_file(tmp_path, monkeypatch):
    path = tmp_path / "a_1.0_all.deb"
    deb(path, {"/a.txt": random.Random(1).randbytes(100_000)})
    content = bytearray(path.read_bytes())
    content[50_000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a_1\.0_all\.deb is damaged"):
        list(debian.members(path, re.compile("txt")))
    path.write_bytes(path.read_bytes().replace(b"data.tar.xz ", b"data.tar.zst"))
    with pytest.raises(UserError, match=r"a_1\.0_all\.deb is damaged"):
        list(debian.members(path, re.compile("txt")))
    deb(path, {"/a.txt": b"x" * 101, "/b.bin": b"x" * 500})
    monkeypatch.setattr(debian, "MOST_BYTES", 100)
    with pytest.raises(UserError, match=r"a.txt has 101 bytes"):
        list(debian.members(path, re.compile("txt")))
    assert not list(debian.members(path, re.compile("other")))


def test_links_and_paths_in_a_package_are_not_followed(tmp_path):
    path = tmp_path / "a_1.0_all.deb"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("a.txt")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        member = tarfile.TarInfo("../../b.txt")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"yes"))
    content = buffer.getvalue()
    head = f"{'data.tar.gz':<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
    path.write_bytes(b"!<arch>\n" + head + content)
    assert list(debian.members(path, re.compile("txt"))) == [("/../b.txt", b"yes")]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_package_file_needs_its_three_names(tmp_path):
    for name in ("a_1.deb", "a_1_2_all.deb"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(UserError, match=rf"{name} is not named NAME_VERSION_ARCHITECTURE"):
            debian.packages(tmp_path, [("a",)])
        (tmp_path / name).unlink()


def test_a_package_list_that_is_not_utf8(tmp_path):
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "x_main_i18n_Translation-de"
    path.write_bytes(b"Description-de: f\xfcr\n")
    with pytest.raises(UserError, match="Translation-de is not UTF-8 text; delete it"):
        debian.read_list(tmp_path, "de")


GERMAN = "/usr/share/locale/de/LC_MESSAGES/a.mo"
MAN = {f"/usr/share/man/{folder}man1/a.1.gz": b"" for folder in ("", "de/")}
JSON = {f"/usr/share/x/i18n/{language}.json": b"{}" for language in ("en", "de")}


@pytest.mark.parametrize(
    "files",
    [
        {GERMAN: b""},
        {GERMAN: mo([("a", "b")])[:40]},
        {GERMAN: struct.pack("<7I", 0x950412DE, 0, 2**32 - 1, 28, 28, 0, 28)},
        {"/usr/share/calibre/localization/locales.zip": b"no archive"},
        dict.fromkeys(MAN, b"\x1f\x8b\x08\0"),
        dict.fromkeys(MAN, gzip.compress(bytes(1 << 25))),
        dict.fromkeys(JSON, b"{"),
        dict.fromkeys(JSON, b"[" * 100_000),
    ],
)
def test_a_damaged_file_of_a_package_is_named_in_one_line(tmp_path, files):
    deb(tmp_path / "a_1_all.deb", files)
    (path, *_) = sorted(files)
    with pytest.raises(UserError, match=f"/{path.rsplit('/', 1)[1]} in a package cannot be read"):
        list(readers.read_packages([tmp_path / "a_1_all.deb"]))


def test_half_of_a_surrogate_pair_and_long_texts_are_left_out(tmp_path):
    texts = [
        Text("ui", "a", "These are the new files.", f"Das sind die {w} Dateien.")
        for w in ("neuen", "\ud800")
    ]
    texts.append(Text("ui", "a", "The " * 20_000, "Die " * 20_000))
    counts = Counter()
    (pair,) = readers.clean_pairs("git", iter(texts), counts)
    assert pair[3] == "Das sind die neuen Dateien."
    assert counts["too long"] == 1


def test_documents_of_too_many_blocks_are_not_aligned(monkeypatch):
    few = [("p", "a"), *[("li", "b")] * 10]
    assert align_blocks(few, few[::-1])
    assert align_blocks([("p", "a" * 20_001)], [("p", "b")]) == [("\0", "b")]
    monkeypatch.setattr(alignment, "MOST_CELLS", 600)
    assert align_blocks(few, few[::-1]) == []


@pytest.mark.parametrize(
    "text",
    [
        "\\begin_body\n" + "\\begin_layout A\n" * 50_000,
        "\\begin_body" * 50_000,
        "<a" + "\n" * 200_000,
    ],
)
def test_documents_without_ends_take_no_time(text):
    start = time.process_time()
    lyx_blocks(text.encode())
    elements(text.encode())
    assert time.process_time() - start < 5


def test_the_newer_name_of_a_package_serves_as_well(tmp_path):
    deb(tmp_path / "new-name_2%3a1.0_all.deb", {"/a": b""})
    (package,) = debian.packages(tmp_path, [("old-name", "new-name")])
    assert (package.name, package.version) == ("new-name", "2:1.0")


def test_without_apt_the_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(debian.shutil, "which", lambda name: None)
    with pytest.raises(
        UserError, match=r"lacks 1 packages, such as no-such\|other, and apt-get is not"
    ):
        debian.fetch(tmp_path, [("no-such", "other")])
    with pytest.raises(
        UserError, match=r"lacks lists/\*_main_i18n_Translation-en or -de, and apt-get"
    ):
        debian.fetch(tmp_path, [])


def test_licences_are_those_of_a_machine_readable_copyright_file(tmp_path):
    path = tmp_path / "a_1_all.deb"
    text = b"Format: https://x/\nFiles: *\nLicense: GPL-2+\n text\n\nFiles: b\nLicense: MIT\n"
    deb(path, {"/usr/share/doc/a/copyright": text})
    assert debian.licences(path) == ["GPL-2+", "MIT"]
    deb(path, {"/usr/share/doc/a/copyright": b"free text\nLicense: unclear\n"})
    assert debian.licences(path) == []


def test_catalogues_give_plurals_and_drop_contexts():
    pairs = [("menu\x04Open file", "Datei öffnen"), ("one page\0%d pages", "eine Seite\0%d Seiten")]
    assert list(read_mo(mo(pairs))) == [
        ("Open file", "Datei öffnen"),
        ("one page", "eine Seite"),
        ("%d pages", "%d Seiten"),
    ]


def test_elements_have_their_ids_and_no_verbatim_text():
    data = b"""<html><head><title>x</title></head><body><h1 id="a">A &amp; B</h1><p id="b">Press
    <b>now</b>.<br/>Then wait.</p><pre>code</pre><script>no()</script></body></html>"""
    assert [(e.tag, e.id, e.text) for e in elements(data)] == [
        ("h1", "a", "A & B"),
        ("p", "b", "Press now . Then wait.".replace(" .", ".")),
    ]


def test_manual_pages_become_headings_tags_and_paragraphs():
    page = r""".TH LS 1
.SH NAME
ls \- list directory contents
.SH OPTIONS
.TP
\fB\-a\fR, \fB\-\-all\fR
do not ignore entries
.nf
verbatim
.fi
.B bold
and \(lqquoted\(rq text.
""".replace("\\fB\\-a", "\\fB\\-a")
    assert man_blocks(gzip.compress(page.encode())) == [
        ("h", "NAME"),
        ("p", "ls - list directory contents"),
        ("h", "OPTIONS"),
        ("tag", "-a, --all"),
        ("p", "do not ignore entries"),
        ("p", 'bold and "quoted" text.'),
    ]
    assert man_blocks(gzip.compress(b".so man1/other.1\n")) == []


def test_groff_escapes():
    assert groff_text(r"f\(:ur \[u00FC]ber \s-1GNU\s0 \\ x\~y \*(lqz\" comment") == (
        'für über GNU  x y "z'
    )


def test_lyx_paragraphs():
    text = """\\begin_body
\\begin_layout Standard
\\SpecialChar LyX
 is a
 program.
\\end_layout
\\begin_layout Standard
\\begin_inset Formula $x$
\\end_inset
\\end_layout
"""
    assert lyx_blocks(text.encode()) == [("Standard", "LyX is a program."), ("Standard", "\x00")]


def test_descriptions_are_paired_by_checksum_and_paragraph():
    english = (
        "Package: foo-bar2\nDescription-md5: abc\nDescription-en: small tool\n It does one thing\n"
        " and does it well.\n .\n  * first item\n  * second item\n\n"
        "Package: only\nDescription-md5: zzz\nDescription-en: alone\n"
    )
    german = (
        "Package: foo-bar2\nDescription-md5: abc\nDescription-de: kleines Werkzeug\n Es tut eines\n"
        " und das gut.\n .\n  * erster Punkt\n  * zweiter Punkt\n"
    )
    found = [text[1:] for text in package_descriptions(english, german)]
    assert found == [
        ("ddtp/foo", "small tool", "kleines Werkzeug"),
        ("ddtp/foo", "It does one thing and does it well.", "Es tut eines und das gut."),
        ("ddtp/foo", "first item", "erster Punkt"),
        ("ddtp/foo", "second item", "zweiter Punkt"),
    ]


def test_blocks_are_aligned_around_one_that_is_missing():
    english = [
        ("p", "Set HOME to 42."),
        ("p", "A note that nobody translated at all."),
        ("p", "Use /etc/x."),
    ]
    german = [("p", "Setzen Sie HOME auf 42."), ("p", "Verwenden Sie /etc/x.")]
    assert align_blocks(english, german) == [
        ("Set HOME to 42.", "Setzen Sie HOME auf 42."),
        ("Use /etc/x.", "Verwenden Sie /etc/x."),
    ]


def test_sentences_end_at_full_stops_but_not_at_abbreviations():
    text = "Use e.g. Kate. It is good! Version 2. See below."
    assert sentences(text) == ["Use e.g. Kate.", "It is good!", "Version 2. See below."]
    pair = ("One thing. Another one here.", "Eine Sache. Noch eine hier.")
    assert pair_sentences(*pair) == [
        ("One thing.", "Eine Sache."),
        ("Another one here.", "Noch eine hier."),
    ]
    assert pair_sentences("One thing. Another.", "Eine Sache") == [
        ("One thing. Another.", "Eine Sache")
    ]


@pytest.mark.parametrize(
    ("english", "german", "result"),
    [
        ("&Open the _file", "Die _Datei ö&ffnen", ("Open the file", "Die Datei öffnen")),
        ("A “new” file here", "Hier die „neue“ Datei", ('A "new" file here', 'Hier die "neue" Datei')),
        ("Delete %s now", "%s jetzt löschen", "placeholder"),
        ("Open", "Öffnen", "length"),
        ("Copy all of these files there", "Kopie von", "ratio"),
        ("Show the hidden files", "Show the hidden files", "untranslated"),
        ("The value is 3 here", "Der Wert ist 7 hier", "numbers"),
        ("The result of foo::bar there", "Das Ergebnis von foo::bar dort", "code"),
        ("Please open the file", "Please open this file", "untranslated"),
        ("Save this file now", "It is the best of all", "language"),
    ],
)  # fmt: skip
def test_pairs_are_cleaned_or_dropped_for_a_reason(english, german, result):
    if isinstance(result, tuple):
        assert cleaning.clean(english, german, interface=True) == result
    else:
        with pytest.raises(cleaning.Dropped, match=result):
            cleaning.clean(english, german, interface=True)


def rows():
    """A small corpus with repetitions, near copies and held-out bundles."""
    made = [
        Row.of("git", "ui", "git/a", f"Open the {a} of today", f"{x} von heute öffnen")
        for a, x in zip(WORDS, WORTE, strict=True)
    ]
    held = ("Remove the old entry from the list", "Den alten Eintrag aus der Liste entfernen")
    made.append(Row.of("kpat", "ui", "kpat/a", *held))
    made.append(Row.of("git", "ui", "git/a", *held))  # the same in train
    near = (
        "Remove the old entry from the list box",
        "Entferne bitte den alten Eintrag des Listenfelds",
    )
    made.append(Row.of("git", "ui", "git/a", *near))
    made.append(
        Row.of(
            "konsole",
            "ui",
            "konsole/a",
            "Close all of the tabs",
            "Alle Karteireiter jetzt schließen",
        )
    )
    return made


def test_nothing_of_test_and_valid_is_in_train():
    result = splitting.split(rows())
    english = {name: [row.english for row in split] for name, split in result.rows.items()}
    assert english["test"] == ["Remove the old entry from the list"]
    assert english["valid"] == ["Close all of the tabs"]
    assert len(english["train"]) == len(WORDS)
    assert result.dropped == Counter({"same as held out": 1, "near to held out": 1})
    assert splitting.split(reversed(rows())).rows == result.rows  # whatever the order


def test_the_most_frequent_translation_of_a_text_counts():
    texts = ["Datei jetzt bitte öffnen", "Die Datei jetzt öffnen", "Die Datei jetzt öffnen"]
    made = [Row.of(f"b{i}", "ui", "d", "Open the file now", text) for i, text in enumerate(texts)]
    (row,) = splitting.split(made).rows["train"]
    assert row.german == "Die Datei jetzt öffnen"


def test_nobody_trains_on_the_gimp_manual():
    names = [name for bundle in packages.BUNDLES.values() for names in bundle for name in names]
    assert not [name for name in names if name.startswith("gimp-help")]
    assert packages.bundles(core=True).keys() >= set.union(*packages.HELD_OUT.values())
    assert all(len(bundle) for bundle in packages.BUNDLES.values())


SENTENCES = {  # of a bundle, in train, test and valid
    "git": ("Please show a new {} with some old {} today.", "Bitte heute {} neu mit {} zeigen."),
    "kpat": ("You can hide the {} and the {} here.", "Hier können Sie {} und {} verbergen."),
    "konsole": ("Move each {} behind its {} first.", "Erst jedes Mal {} hinter {} schieben."),
}


def package(folder, bundle, version="1.0", skip=0):
    """A package with a catalogue of all sentences of a bundle but the first ``skip``."""
    english, german = SENTENCES[bundle]
    both = list(zip(WORDS, WORTE, strict=True))
    pairs = [
        (english.format(a, b), german.format(x, y)) for a, x in both for b, y in both if a != b
    ]
    path = folder / f"{bundle}_{version}_all.deb"
    deb(path, {f"/usr/share/locale/de/LC_MESSAGES/{bundle}.mo": mo(pairs[skip:])})
    return path


@pytest.fixture
def small_corpus(tmp_path, monkeypatch):
    """Packages of three bundles and package lists; returns the folder."""
    source = tmp_path / "packages"
    (source / "lists").mkdir(parents=True)
    for bundle in SENTENCES:
        package(source, bundle)
    stanza = "Package: foo\nDescription-md5: a\nDescription-{}: {}\n"
    for language, text in (("en", "tool for the new files"), ("de", "Werkzeug für neue Dateien")):
        path = source / "lists" / f"x_dists_y_main_i18n_Translation-{language}"
        path.write_text(stanza.format(language, text))
    monkeypatch.setattr(packages, "BUNDLES", {name: [(name,)] for name in SENTENCES})
    monkeypatch.setattr(debian.shutil, "which", lambda name: None)  # all packages exist
    return source


@pytest.mark.fairseq
def test_the_same_packages_give_the_same_corpus(tmp_path, small_corpus):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        assert prepare_corpus(folder, small_corpus, symbols=SYMBOLS) == folder / "bin"
    one, two = folders
    texts = ["train.en", "valid.de", "test.tsv", "manifest.tsv", "statistics.json", "dict.en.txt"]
    for name in (*texts, pieces.MODEL, "bin/train.en-de.de.bin"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    statistics = json.loads((one / "statistics.json").read_text())
    assert [statistics[name]["pairs"] for name in ("train", "valid", "test")] == [91, 90, 90]
    assert statistics["read"]["kpat"] == {"read": 90}
    lines = (one / "manifest.tsv").read_text().splitlines()
    versions = [line.split("\t")[:2] for line in lines[1:]]
    assert versions == [["git", "1.0"], ["konsole", "1.0"], ["kpat", "1.0"]]
    assert len(Dictionary.load(one / "dict.de.txt")) == SYMBOLS


@pytest.mark.fairseq
def test_a_changed_package_starts_the_corpus_again(tmp_path, small_corpus):
    folder = tmp_path / "corpus"
    prepare_corpus(folder, small_corpus, symbols=SYMBOLS)
    made = (folder / "train.en").stat().st_mtime_ns
    prepare_corpus(folder, small_corpus, symbols=SYMBOLS)
    assert (folder / "train.en").stat().st_mtime_ns == made  # nothing is made again
    (small_corpus / "git_1.0_all.deb").unlink()
    package(small_corpus, "git", "1.1", skip=10)
    prepare_corpus(folder, small_corpus, symbols=SYMBOLS)
    assert len((folder / "train.en").read_text().splitlines()) == 81


@pytest.mark.fairseq
def test_a_stopped_run_continues(tmp_path, small_corpus, monkeypatch):
    folder = tmp_path / "corpus"
    with monkeypatch.context() as patch:
        patch.setattr("train_model.data.corpora.en_de.split", lambda rows: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare_corpus(folder, small_corpus, symbols=SYMBOLS)
    read = {path: path.stat().st_mtime_ns for path in (folder / "bundles").iterdir()}
    assert len(read) == 4
    prepare_corpus(folder, small_corpus, symbols=SYMBOLS)
    assert {path: path.stat().st_mtime_ns for path in read} == read


@pytest.mark.fairseq
def test_the_sampled_corpus_is_the_plain_one_in_several_segmentations(tmp_path, small_corpus):
    binary = prepare_sampled(tmp_path / "en-de-sampled", small_corpus, SYMBOLS)
    from fairseq.data import indexed_dataset

    def rows_of(folder, split):
        dataset = indexed_dataset.make_dataset(str(folder / f"{split}.en-de.en"), "mmap")
        return [row.tolist() for row in dataset]

    plain, sampled = (rows_of(folder, "train") for folder in (tmp_path / "en-de" / "bin", binary))
    assert sampled[: len(plain)] == plain
    assert len(sampled) == 4 * len(plain)
    assert sum(row != plain[i % len(plain)] for i, row in enumerate(sampled)) > len(plain)
    dictionary = Dictionary.load(binary / "dict.en.txt")
    texts = ["".join(dictionary.symbols[index] for index in row[:-1]) for row in sampled]
    assert texts == 4 * texts[: len(plain)]
    assert rows_of(binary, "test") == rows_of(tmp_path / "en-de" / "bin", "test")


@pytest.mark.fairseq
def test_english_without_a_german_edition_is_text_for_a_teacher(tmp_path, small_corpus):
    plain = tmp_path / "en-de"
    prepare_corpus(plain, small_corpus, symbols=SYMBOLS)
    known, held_out = (
        (plain / f"{name}.en").read_text().splitlines() for name in ("train", "test")
    )
    stanza = "Package: lib{0}-dev\nDescription-md5: {0}\nDescription-en: {1}\n\n"
    texts = [
        f"the window of the page\n A page. It shows the list of the files!\n .\n {known[0]}",
        f"the window of the page\n {held_out[0]}\n .\n  verbatim text of the file",
        "der Wert und die Liste der Dateien\n Run %s with /etc/file on the list.",
    ]
    path = small_corpus / "lists" / "x_dists_y_main_i18n_Translation-en"
    numbered = "".join(stanza.format(f"number{i}", text) for i, text in enumerate(texts))
    path.write_text(path.read_text() + "\n" + numbered)
    binary = prepare_english(tmp_path / "en-de-english", small_corpus, SYMBOLS)
    lines = (tmp_path / "en-de-english" / "train.en").read_text().splitlines()
    known = (plain / "train.en").read_text().splitlines()
    assert lines[: len(known)] == known
    assert sorted(lines[len(known) :]) == [
        "A page.",
        "It shows the list of the files!",
        "the window of the page",
    ]
    with pytest.raises(UserError, match=r"no train\.en-de\.de; a teacher can translate"):
        check_binary(binary)
    for name in ("valid.en-de.de.bin", "test.en-de.en.idx", "dict.de.txt"):
        assert (binary / name).read_bytes() == (plain / "bin" / name).read_bytes()


def test_english_of_held_out_documents_is_left_out(monkeypatch):
    monkeypatch.setattr(debian, "read_list", lambda folder, language: language)
    monkeypatch.setattr(
        english,
        "english_paragraphs",
        lambda *_: [(f"ddtp/p{i}", "the old page") for i in range(99)],
    )
    found = []

    def hidden(row):
        found.append(row.document)
        return "test" if len(found) < 99 else "train"

    monkeypatch.setattr(english, "split_of", hidden)
    assert list(english.untranslated(None, [], [])) == ["the old page"]
    assert found[0] == "ddtp/ddtp/p0"  # as the pairs of the corpus name it
