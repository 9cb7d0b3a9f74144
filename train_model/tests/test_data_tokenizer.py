"""Dictionary and tokenizer on the committed demo files: round trips, any input, bad files."""

import re
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from subword_nmt.apply_bpe import BPE

from train_model.cli import UserError
from train_model.data import files
from train_model.data.bpe import MAX_EXPRESSIONS, load_bpe
from train_model.data.dictionary import BOS, EOS, PAD, SPECIALS, UNK, Dictionary
from train_model.data.text import TextOptions
from train_model.data.tokenizer import Tokenizer, normalise

DEMO = Path(__file__).parents[2] / "data_model" / "demo"
DICTIONARY = Dictionary.load(DEMO / "dict.en.txt")
TEXT = TextOptions(codes=DEMO / "bpe.codes")
TOKENIZER = Tokenizer(TEXT, DICTIONARY, Dictionary.load(DEMO / "dict.de.txt"))
JOINED = Tokenizer(TEXT, DICTIONARY, DICTIONARY)
LINES = {
    language: (DEMO / f"test.{language}").read_text(encoding="utf-8").splitlines()
    for language in ("en", "de")
}
# Characters that are a word of their own in the dictionary and can also stand inside one.
KNOWN = sorted(
    symbol
    for symbol in DICTIONARY.symbols
    if len(symbol) == 1 and f"{symbol}@@" in DICTIONARY.symbols
)


def test_dictionaries_of_both_languages_are_one():
    assert (DEMO / "dict.en.txt").read_bytes() == (DEMO / "dict.de.txt").read_bytes()
    assert len(DICTIONARY) % 8 == 0
    assert DICTIONARY.symbols[:4] == list(SPECIALS)


@pytest.mark.parametrize("language", ["en", "de"])
def test_test_split_round_trip_without_unknowns(language):
    for line in LINES[language]:
        ids = TOKENIZER.encode(line)
        assert (ids[0], ids[-1]) == (BOS, EOS)
        assert not {BOS, PAD, EOS, UNK} & set(ids[1:-1])
        assert TOKENIZER.decode(ids[1:]) == line


def test_units_are_those_of_subword_nmt_itself():
    glossary = (DEMO / "bpe.glossary").read_text(encoding="utf-8").splitlines()
    with (DEMO / "bpe.codes").open(encoding="utf-8") as codes:
        reference = BPE(codes, glossaries=glossary)
    for line in LINES["en"][:200]:
        assert TOKENIZER.source_units(line) == reference.process_line(line).split()


def test_a_number_word_has_a_unit_for_each_of_its_parts():
    units = "sieben@@ hund@@ ert@@ drei@@ und@@ dreißig"
    assert TOKENIZER.source_units("siebenhundertdreiunddreißig") == units.split()
    units = "drei@@ tausend@@ ein@@ hundert der zwei@@ und@@ zwanzigste"
    assert TOKENIZER.source_units("dreitausendeinhundert der zweiundzwanzigste") == units.split()
    assert TOKENIZER.source_units("€12.5") == ["€@@", "1@@", "2@@", ".@@", "5"]


def test_the_bench_shapes_past_32_tokens_are_real_text():
    assert max(len(TOKENIZER.encode(line)) for line in LINES["en"]) > 42


def test_a_glossary_that_is_not_an_expression_is_refused(tmp_path):
    (tmp_path / "bpe.codes").write_text("#version: 0.2\na b\n")
    (tmp_path / "bpe.glossary").write_text("[0-9]\n(und\n")
    with pytest.raises(UserError, match=r"bpe\.glossary line 2 is not a regular expression"):
        load_bpe(tmp_path / "bpe.codes")


@given(st.lists(st.text(st.sampled_from(KNOWN), min_size=1), min_size=1))
def test_any_text_of_known_characters_survives_a_round_trip(words):
    text = " ".join(words)
    assert TOKENIZER.decode(TOKENIZER.encode(text)[1:]) == text


@given(st.text())
def test_any_text_is_encoded_or_refused_as_empty(text):
    if not normalise(text):
        with pytest.raises(UserError, match="empty"):
            TOKENIZER.encode(text)
        return
    ids = TOKENIZER.encode(text)
    assert all(UNK <= index < len(DICTIONARY) for index in ids[1:-1])
    assert len(ids) > 2


@given(st.lists(st.integers(0, len(DICTIONARY) - 1)))
def test_any_ids_are_decoded_to_one_line(ids):
    text = TOKENIZER.decode(ids)
    assert text == " ".join(text.split())
    assert not any(special in text for special in SPECIALS)


@given(st.lists(st.sampled_from(DICTIONARY.symbols[len(SPECIALS) :])))
def test_units_are_joined_as_subword_nmt_says(units):
    """Its README joins them with ``sed -r 's/(@@ )|(@@ ?$)//g'``."""
    ids = map(DICTIONARY.index, units)
    expected = re.sub("(@@ )|(@@ ?$)", "", " ".join(u for u in units if "madeupword" not in u))
    assert JOINED.decode(ids) == expected.rstrip()


@given(st.text(st.characters(max_codepoint=0xFF)))
def test_white_space_and_control_characters_become_single_spaces(text):
    """Most text takes a short way: printable ASCII without double spaces."""
    spaced = "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)
    assert normalise(text) == " ".join(spaced.split())


def test_white_space_and_control_characters_are_spaces():
    assert TOKENIZER.encode("\u00a0two\tthousand\x00 one\r\n") == TOKENIZER.encode(
        "two thousand one"
    )


def test_composed_and_decomposed_characters_are_the_same():
    assert TOKENIZER.encode("fu\u0308nf") == TOKENIZER.encode("f\u00fcnf")


def test_unknown_characters_become_unk():
    assert TOKENIZER.encode("\u4e2d")[1:-1] == [UNK]


def test_decoding_stops_at_eos_and_leaves_no_joint():
    unit = next(s for s in DICTIONARY.symbols if s.endswith("@@"))
    ids = [BOS, DICTIONARY.index(unit), EOS, DICTIONARY.index("two"), PAD]
    assert TOKENIZER.decode(ids[1:]) == unit.removesuffix("@@")


def test_ids_of_another_dictionary_are_refused():
    with pytest.raises(UserError, match="not in the dictionary"):
        TOKENIZER.decode([len(DICTIONARY)])


def test_saved_dictionary_is_the_same(tmp_path):
    DICTIONARY.save(tmp_path / "dict.txt")
    assert (tmp_path / "dict.txt").read_bytes() == (DEMO / "dict.en.txt").read_bytes()


def test_frequent_symbols_come_first_and_ties_do_not_depend_on_order():
    one = Dictionary.from_frequencies({"b": 2, "a": 2, "c": 9})
    other = Dictionary.from_frequencies({"a": 2, "c": 9, "b": 2})
    assert one.symbols == other.symbols
    assert one.symbols == [*SPECIALS, "c", "a", "b", "madeupword0000"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"one 1\ntwo\n", "line 2"),
        (b"one x\n", "line 1"),
        (b"one 1\none 2\n", "'one' twice"),
        (b"<pad> 1\n", "'<pad>' twice"),
        (b"\xff\xfe\x00", "not a UTF-8"),
    ],
)
def test_bad_dictionaries_are_refused_with_the_place(tmp_path, content, message):
    path = tmp_path / "dict.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        Dictionary.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"#version: 0.2\na b\nabc\n", "line 3"), (b"\xff\xfe\x00", "not a UTF-8")],
)
def test_bad_codes_are_refused_with_the_place(tmp_path, content, message):
    path = tmp_path / "codes"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Tokenizer(TextOptions(codes=path), DICTIONARY, DICTIONARY)


@pytest.mark.parametrize("name", ["codes", "codes.glossary", "dictionary"])
def test_a_list_of_too_many_lines_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(files, "MAX_ENTRIES", 3)
    (tmp_path / "codes").write_text("#version: 0.2\na b\n")
    lines = {"codes": "a b\n" * 4, "codes.glossary": "a\n" * (MAX_EXPRESSIONS + 1)}
    (tmp_path / name).write_text(lines.get(name, "a 1\nb 1\nc 1\nd 1\n"))
    with pytest.raises(UserError, match=f"{name} has more than (3|5000) lines"):
        Dictionary.load(tmp_path / name) if name == "dictionary" else load_bpe(tmp_path / "codes")


MARKS = [*"aeouAEkhﬁﷺ각üか한", *map(chr, [*range(0x300, 0x346), 0x0F71, 0x0F74, 0x1F82, 0x3099])]


@given(st.text(st.sampled_from(MARKS), min_size=257, max_size=400), st.sampled_from(["C", "KC"]))
@settings(max_examples=50)
def test_long_texts_with_many_marks_are_composed_as_unicode_says(text, form):
    assert normalise(text, f"NF{form}") == unicodedata.normalize(f"NF{form}", text)


def test_a_hundred_thousand_combining_marks_are_sorted_at_once():
    start = time.process_time()
    normalise("a" + "\u0301\u0316" * 50_000)  # unicodedata alone takes about 20 s
    assert time.process_time() - start < 5


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no dictionary at"):
        Dictionary.load(tmp_path / "none")
    with pytest.raises(UserError, match="no BPE codes at"):
        Tokenizer(TextOptions(codes=tmp_path / "none"), DICTIONARY, DICTIONARY)
