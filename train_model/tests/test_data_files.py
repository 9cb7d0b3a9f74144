"""Text files with other line ends and encodings, byte order marks, and sides of different lengths."""

import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train_model.cli import UserError
from train_model.data import files
from train_model.data.bpe import load_bpe
from train_model.data.corpora import cnndm, wmt16
from train_model.data.dictionary import Dictionary
from train_model.data.files import check_parallel, read_lines, read_parallel
from train_model.data.text import TextOptions
from train_model.data.tokenizer import Tokenizer
from train_model.quantization.text import read_sentences

INSIDE = "a\rb\x0bc\x0cd\x1ce\x85f\u2028g"  # str.splitlines ends a line at each of these


def test_a_line_ends_at_a_line_feed_only(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(f"\ufeffone\r\n{INSIDE}\n\n\ufefflast".encode())
    assert list(read_lines(path)) == ["one", INSIDE, "", "\ufefflast"]


def test_an_empty_file_has_no_line(tmp_path):
    (tmp_path / "text").write_bytes(b"")
    assert list(read_lines(tmp_path / "text")) == []


@pytest.mark.parametrize("content", ["für\n".encode("latin-1"), "für\n".encode("utf-16")])
def test_another_encoding_is_reported_with_its_line(tmp_path, content):
    path = tmp_path / "text"
    path.write_bytes(b"one\n" + content)
    with pytest.raises(UserError, match=r"text line 2: this is not a UTF-8 text file; convert it"):
        list(read_lines(path))


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE", 1000)
    stream = io.BytesIO(b"x" * 1000 + b"\n" + b"y" * 10**6)
    lines = files.decode_lines(stream, "text")
    with pytest.raises(UserError, match="text line 1 is longer than 1000 bytes"):
        next(lines)
    assert stream.tell() <= 2000


@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_the_longest_line_is_read_wherever_it_is(ending, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE", 1000)
    content = b"a\n" * 300 + b"x" * 999 + b"\n" + b"y" * (1000 - len(ending)) + ending
    assert b"".join(files.raw_lines(io.BytesIO(content), "text")) == content
    longer = content.replace(b"x", b"xx", 1)
    with pytest.raises(UserError, match="text line 301 is longer than 1000 bytes"):
        list(files.raw_lines(io.BytesIO(longer), "text"))


PIECES = [
    b"a",
    b"\n",
    b"\r",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"\xc2\x85",
    b"\xe2\x82",
    b"\xff",
    "für".encode(),
]


@given(st.lists(st.sampled_from(PIECES)).map(b"".join), st.integers(1, 9))
def test_lines_are_the_bytes_between_line_feeds(content, block):
    """Read in blocks of any size, they are what each line gives alone."""
    alone = content.split(b"\n")
    expected = [line.decode(errors="surrogateescape").removesuffix("\r") for line in alone]
    if alone[-1] == b"":
        expected.pop()
    if expected:
        expected[0] = expected[0].removeprefix("\ufeff")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK", block)
        assert list(files.decode_lines(io.BytesIO(content), "text", "surrogateescape")) == expected
        assert b"".join(files.raw_lines(io.BytesIO(content), "text")) == content
        assert all(
            line.find(b"\n") in (-1, len(line) - 1)
            for line in files.raw_lines(io.BytesIO(content), "text")
        )
        strict = files.decode_lines(io.BytesIO(content), "text")
        for number, line in enumerate(alone[: len(expected)], start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                with pytest.raises(UserError, match=f"text line {number}: this is not a UTF-8"):
                    next(strict)
                break
            assert next(strict) == expected[number - 1]
        assert next(strict, None) is None


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("a\nb\n", "a\n", r"source has more lines than .*target, which ends after 1"),
        ("a\n", "a\nb\nc\n", r"target has more lines than .*source, which ends after 1"),
        ("", "a\n", r"target has more lines than .*source, which ends after 0"),
    ],
)
def test_sides_of_different_lengths_are_reported_by_name(tmp_path, source, target, message):
    paths = tmp_path / "source", tmp_path / "target"
    for path, text in zip(paths, (source, target), strict=True):
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        check_parallel(*paths)


def test_a_carriage_return_inside_a_sentence_keeps_the_pairs(tmp_path):
    (tmp_path / "a").write_bytes(b"one\rmore\ntwo\n")
    (tmp_path / "b").write_bytes(b"eins\nzwei\r\n")
    pairs = read_parallel(tmp_path / "a", tmp_path / "b")
    assert list(pairs) == [("one\rmore", "eins"), ("two", "zwei")]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (b"one\n", "has more lines than"),
        ("für\n".encode("latin-1") * 2, "line 1: this is not a UTF-8"),
    ],
)
@pytest.mark.parametrize("corpus", [cnndm, wmt16])
def test_a_corpus_of_two_lengths_or_encodings_is_refused_before_anything_is_made(
    tmp_path, corpus, train, message
):
    sides = cnndm.SIDES if corpus is cnndm else wmt16.LANGUAGES
    names = files.SPLITS if corpus is cnndm else wmt16.FILES.values()
    for name in names:
        for side in sides:
            (tmp_path / f"{name}.{side}").write_bytes(b"one\ntwo\n")
    (tmp_path / f"{next(iter(names))}.{sides[1]}").write_bytes(train)
    with pytest.raises(UserError, match=message):
        corpus.prepare(tmp_path / "out", tmp_path)
    assert not list(tmp_path.glob("out/**/*.bin"))


@pytest.mark.parametrize("corpus", [cnndm, wmt16])
def test_a_text_that_was_replaced_makes_the_corpus_again(tmp_path, corpus):
    sides = cnndm.SIDES if corpus is cnndm else wmt16.LANGUAGES
    names = files.SPLITS if corpus is cnndm else wmt16.FILES.values()
    paths = [tmp_path / f"{name}.{side}" for name in names for side in sides]
    for path in paths:
        path.write_text("one two\n" * 4)
    binary = corpus.prepare(tmp_path / "out", tmp_path)
    made = {path: path.stat().st_mtime_ns for path in binary.iterdir()}
    corpus.prepare(tmp_path / "out", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in binary.iterdir()} == made
    paths[0].write_text("six two\n" * 4)
    corpus.prepare(tmp_path / "out", tmp_path)
    assert "six" in Dictionary.load(binary / f"dict.{sides[0]}.txt").symbols


def test_a_text_without_words_is_refused(tmp_path):
    for split, side in itertools.product(files.SPLITS, cnndm.SIDES):
        (tmp_path / f"{split}.{side}").write_text("\n \na\n")
    with pytest.raises(UserError, match="no word of two characters"):
        cnndm.prepare(tmp_path / "out", tmp_path)


def test_a_byte_order_mark_is_not_part_of_a_symbol(tmp_path):
    (tmp_path / "dict").write_bytes("\ufeffa@@ 2\r\nb 1\n".encode())
    (tmp_path / "bpe.codes").write_bytes("\ufeff#version: 0.2\r\na b</w>\r\n".encode())
    (tmp_path / "bpe.glossary").write_bytes("\ufeff[0-9]\r\n".encode())
    dictionary = Dictionary.load(tmp_path / "dict")
    assert dictionary.symbols[4:] == ["a@@", "b"]
    tokenizer = Tokenizer(TextOptions(codes=tmp_path / "bpe.codes"), dictionary, dictionary)
    assert tokenizer.encode("\ufeffab") == tokenizer.encode("ab") == [0, 4, 5, 2]
    assert load_bpe(tmp_path / "bpe.codes").segment("a1") == "a@@ 1"


def test_blank_lines_are_not_sentences(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"\n  \n\x00\t\none\n\n\xe2\x80\xa8\ntwo\nthree\n")
    assert read_sentences(path, 2) == ["one", "two"]
    path.write_bytes(b"\n \n")
    with pytest.raises(UserError, match="has no sentence"):
        read_sentences(path, 2)


@pytest.mark.parametrize("line", ["a 1.5", "a", " 7", "a -1", "a " + "9" * 5000, "a \u0663"])
def test_a_count_is_a_number(tmp_path, line):
    (tmp_path / "dict").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 1 is .*; a dictionary has 'symbol count' lines"):
        Dictionary.load(tmp_path / "dict")


@pytest.mark.parametrize("version", ["0.3", "9" * 5000, "x", "1"])
def test_codes_of_another_version_are_refused(tmp_path, version):
    (tmp_path / "bpe.codes").write_text(f"#version: {version}\na b\n")
    with pytest.raises(UserError, match=r"line 1 is .*; it says '#version: 0.2' or 0.1"):
        load_bpe(tmp_path / "bpe.codes")


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("(?:a+)+$", "for ever"),
        ("(?:a|a)*b", "for ever"),
        ("(?:ab|a.)*c", "for ever"),
        ("a?" * 30 + "a" * 30, "for ever"),
        ("a*a*a*a*b", "for ever"),
        ("(?:a{1,99}){1,99}b", "for ever"),
        ("(?=(?:a+)+$)b", "for ever"),
        ("(a|b)", "capturing group"),
        ("(?P<x>a)", "capturing group"),
        ("x*", "where there is nothing"),
        ("(?=x)", "where there is nothing"),
        (r"\b", "where there is nothing"),
        ("(?i)x", "global flags"),
        ("[", "unterminated"),
        ("a{99999999999}", "too large"),
        ("(?:" * 5000 + "a" + ")" * 5000, ""),
    ],
)
def test_an_expression_that_could_take_for_ever_or_splits_wrongly_is_refused(
    tmp_path, expression, reason
):
    (tmp_path / "bpe.codes").write_text("#version: 0.2\na b\n")
    (tmp_path / "bpe.glossary").write_text(f"[0-9]\n{expression}\n")
    with pytest.raises(UserError, match=rf"glossary line 2 is not a regular expression .*{reason}"):
        load_bpe(tmp_path / "bpe.codes")


@pytest.mark.parametrize("expression", [r"\d+(?:\.\d)?", "<[^>]+>", "(?:ab|cd)e?", "(?=a.*b)a"])
def test_an_expression_that_ends_soon_is_taken(tmp_path, expression):
    (tmp_path / "bpe.codes").write_text("#version: 0.2\na b\n")
    (tmp_path / "bpe.glossary").write_text(expression)
    load_bpe(tmp_path / "bpe.codes").segment("a" * 4000)


def test_the_memory_for_words_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("train_model.data.word_cache.WORDS", 100)
    (tmp_path / "bpe.codes").write_text("#version: 0.2\na b\n")
    bpe = load_bpe(tmp_path / "bpe.codes")
    for number in range(1000):
        bpe.segment(f"word{number}")
        assert len(bpe.cache) <= 100
    bpe.segment("x" * 1000)
    assert max(map(len, bpe.cache)) < 100


def test_a_text_that_no_tokens_could_hold_is_refused_before_it_is_split(tmp_path, monkeypatch):
    (tmp_path / "bpe.codes").write_text("#version: 0.2\na b\n")
    dictionary = Dictionary([("abc@@", 1), ("d", 1)])
    tokenizer = Tokenizer(TextOptions(codes=tmp_path / "bpe.codes"), dictionary, dictionary)
    longest = max(map(len, dictionary.symbols))
    assert tokenizer.characters(10) == 10 * (longest + 1)
    monkeypatch.setattr(tokenizer, "_source", None)
    with pytest.raises(UserError, match="100000 characters, and 10 tokens hold at most 60"):
        tokenizer.encode("x" * 100_000, longest=10)
    with pytest.raises(UserError, match="the text is empty"):
        tokenizer.encode(" " * 100_000, longest=10)


def test_what_is_in_memory_is_bounded_by_characters_too(monkeypatch):
    monkeypatch.setattr(files, "MAX_TAKEN", 1000)
    lines = iter(["x" * 300] * 10 + ["y"] * 50)
    taken = []
    while window := files.take(lines, 20):
        taken.append(len(window))
    assert taken == [4, 4, 20, 20, 12]


def test_a_corpus_replaces_only_a_corpus(tmp_path):
    corpus, mine = tmp_path / "demo", tmp_path / "mine"
    files.claim(corpus, {"seed": 1})
    (corpus / "bin").mkdir()
    (corpus / "bin" / "train.idx").touch()
    (corpus / "train.en").touch()
    files.claim(corpus, {"seed": 1})
    assert (corpus / "train.en").exists()
    files.claim(corpus, {"seed": 2})
    assert [path.name for path in corpus.iterdir()] == ["settings.json"]
    mine.mkdir()
    files.claim(mine, {"seed": 1})
    (mine / "settings.json").unlink()
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="mine has files that are not a corpus"):
        files.claim(mine, {"seed": 1})
    assert (mine / "thesis.txt").read_text() == "mine"
