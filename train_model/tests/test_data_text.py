"""Text in several scripts through every subword method and back, and Moses' steps around it."""

import collections
import io
import os
import re
from pathlib import Path

import pytest
import sacremoses
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from subword_nmt.apply_bpe import BPE
from subword_nmt.learn_bpe import learn_bpe

from train_model.cli import UserError
from train_model.data.dictionary import BOS, EOS, SPECIALS, UNK, Dictionary
from train_model.data.regex_cost import literals
from train_model.data.text import TextOptions, TrainingText
from train_model.data.tokenizer import Tokenizer, normalise

# Article 1 of the Universal Declaration of Human Rights, and a line with emoji.
LINES = dict(
    line.split("\t")
    for line in (Path(__file__).parent / "fixtures/scripts.txt").read_text("utf-8").splitlines()
)
EACH = pytest.mark.parametrize("language", LINES)


def dictionary_of(units, extra=()) -> Dictionary:
    return Dictionary([*collections.Counter(units).most_common(), *extra])


EXPRESSIONS = {
    r"(?<!a )\bba\b|cab": {"ba", "cab"},
    r" (?:a|a b|b a) ": {" a ", " a b ", " b a "},
    r", (?!a)": {", "},
    r"a+b[abc]ca": {"ca"},
    r"(?:ab){2,}": {"ab"},
    r"(?:ab)*": {""},
    r"[ab]|c": {""},
    r"(?i)ba": {""},
    r"(?i:b)aa": {"aa"},
    r"(?>ab)c": {"abc"},
    r"^ab$": {"ab"},
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
@given(text=st.text("abcA ,"), most=st.integers(0, 2))
def test_a_form_is_found_where_its_expression_is(expression, text, most):
    """The texts that a match contains are searched for first."""
    assert literals(expression) == EXPRESSIONS[expression]
    found = [match[0] for match in re.finditer(expression, text)]
    assert all(any(part in match for part in literals(expression)) for match in found)
    options = TextOptions(subwords="none", untrained={"such forms": [expression, most]})
    warning = TrainingText(options).warning(text, 5)
    assert ("such forms" in warning) == (len(found) > most)


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    """Merges of subword-nmt over all lines."""
    path = tmp_path_factory.mktemp("bpe") / "bpe.codes"
    with path.open("w", encoding="utf-8") as output:
        learn_bpe([normalise(line) for line in LINES.values()], output, 300)
    return path


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A SentencePiece model over all lines, with bytes for unknown characters."""
    path = tmp_path_factory.mktemp("spm") / "spm.model"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(LINES.values()),
        model_writer=model,
        vocab_size=700,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="module")
def bpe_tokenizer(codes):
    with codes.open(encoding="utf-8") as file:
        reference = BPE(file)
    units = [unit for line in LINES.values() for unit in reference.segment(line).split()]
    dictionary = dictionary_of(units)
    return Tokenizer(TextOptions(codes=codes), dictionary, dictionary)


@pytest.fixture(scope="module")
def piece_tokenizer(pieces):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    names = [processor.IdToPiece(index) for index in range(processor.GetPieceSize())]
    dictionary = Dictionary([(name, 1) for name in names if name not in SPECIALS])
    text = TextOptions(subwords="sentencepiece", codes=pieces, unicode="none")
    return Tokenizer(text, dictionary, dictionary)


@EACH
def test_subword_nmt_round_trip(language, bpe_tokenizer, codes):
    line = LINES[language]
    with codes.open(encoding="utf-8") as file:
        units = BPE(file).segment(line).split()
    assert bpe_tokenizer.source_units(line) == units
    ids = bpe_tokenizer.encode(line)
    assert [bpe_tokenizer.src_dict.symbols[index] for index in ids[1:-1]] == units
    assert UNK not in ids
    assert bpe_tokenizer.decode(ids[1:]) == line


@EACH
def test_sentencepiece_round_trip(language, piece_tokenizer, pieces):
    line = LINES[language]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    units = processor.encode(line, out_type=str)
    assert piece_tokenizer.source_units(line) == units
    ids = piece_tokenizer.encode(line)
    assert (ids[0], ids[-1], len(ids)) == (BOS, EOS, len(units) + 2)
    assert UNK not in ids
    # the model's own normalisation, which e.g. composes the two forms of a letter
    assert piece_tokenizer.decode(ids[1:]) == processor.decode(processor.encode(line))


def test_sentencepiece_spells_unknown_characters_in_bytes(piece_tokenizer):
    ids = piece_tokenizer.encode("🐈 ქართული")
    assert UNK not in ids
    assert piece_tokenizer.decode(ids[1:]) == "🐈 ქართული"


@EACH
def test_text_in_units_stays_as_it_is(language, bpe_tokenizer, codes):
    units = " ".join(bpe_tokenizer.source_units(LINES[language]))
    segmented = Tokenizer(
        bpe_tokenizer.options.segmented(), bpe_tokenizer.src_dict, bpe_tokenizer.tgt_dict
    )
    ids = segmented.encode(units)
    assert ids == bpe_tokenizer.encode(LINES[language])
    assert segmented.decode(ids[1:]) == units


# without the line of emoji, which Moses splits and cannot join again
@pytest.mark.parametrize("language", ["fr", "cs", "vi", "ru", "el"])
@pytest.mark.parametrize("aggressive_dashes", [False, True])
def test_moses_tokenises_and_detokenises(language, aggressive_dashes):
    line = LINES[language].replace(" et ", " - ").replace("humains", "semi-humains & co.")
    reference = sacremoses.MosesTokenizer(language).tokenize(
        line, aggressive_dash_splits=aggressive_dashes
    )
    text = TextOptions(subwords="none", moses=True, aggressive_dashes=aggressive_dashes)
    dictionary = dictionary_of(reference)
    tokenizer = Tokenizer(text, dictionary, dictionary, (language, language))
    assert tokenizer.source_units(line) == tokenizer.target_units(line) == reference
    assert ("@-@" in reference) == (aggressive_dashes and language == "fr")
    assert tokenizer.decode(tokenizer.encode(line)[1:]) == line


@pytest.fixture(scope="module")
def truecase_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("case") / "truecase"
    words = ["The house is in Prague .", "In Prague the house is old .", "Is the house old ?"]
    sacremoses.MosesTruecaser().train([line.split() for line in words], save_to=str(path))
    return path


def test_truecase_changes_the_beginning_of_a_sentence_and_back(truecase_model):
    text = TextOptions(subwords="none", moses=True, case="truecase", truecase_model=truecase_model)
    units = ["the", "house", "is", "in", "Prague", "."]
    dictionary = dictionary_of(units)
    tokenizer = Tokenizer(text, dictionary, dictionary)
    assert tokenizer.source_units("The house is in Prague.") == units
    ids = tokenizer.encode("The house is in Prague.")
    assert tokenizer.decode(ids[1:]) == "The house is in Prague."


def test_lower_case_is_of_both_sides(bpe_tokenizer):
    tokenizer = Tokenizer(
        TextOptions(subwords="none", case="lower"), bpe_tokenizer.src_dict, bpe_tokenizer.tgt_dict
    )
    assert tokenizer.source_units("Είναι ÉGAUX") == tokenizer.target_units("είναι égaux")


def test_forms_of_one_character_are_unified(bpe_tokenizer):
    composed, decomposed = "égaux", "e\u0301gaux"
    assert bpe_tokenizer.encode(composed) == bpe_tokenizer.encode(decomposed)
    wide = Tokenizer(
        TextOptions(subwords="none", unicode="NFKC"), bpe_tokenizer.src_dict, bpe_tokenizer.tgt_dict
    )
    assert wide.source_units("\uff46ull \ufb01") == ["full", "fi"]


def test_special_and_made_up_symbols_are_not_text():
    dictionary = Dictionary([("one", 5), ("madeupword0000", 3), ("madeupword0001", 0)])
    tokenizer = Tokenizer(TextOptions(subwords="none"), dictionary, dictionary)
    ids = tokenizer.encode("one </s> <pad> madeupword0000 madeupword0001")
    assert ids == [BOS, 4, UNK, UNK, 5, UNK, EOS]
    assert tokenizer.decode([4, 1, 6, 3, 5, EOS, 4]) == "one madeupword0000"


def test_a_joined_dictionary_is_read_once(tmp_path):
    from train_model.model_folder import ModelFolder

    path, codes = tmp_path / "dict.txt", tmp_path / "bpe.codes"
    path.write_text("one 1\n")
    codes.write_text("#version: 0.2\no n\n")
    files = ModelFolder("m", tmp_path, src_dict=path, tgt_dict=path, text=TextOptions(codes=codes))
    tokenizer = Tokenizer.from_files(files)
    assert tokenizer.src_dict is tokenizer.tgt_dict


def test_a_symbol_that_overwrites_has_its_last_index(tmp_path):
    path = tmp_path / "dict.txt"
    path.write_text("one 5\n<unk> 2 #fairseq:overwrite\none 1 #fairseq:overwrite\n")
    dictionary = Dictionary.load(path)
    assert (len(dictionary), dictionary.index("one"), dictionary.index("<unk>")) == (7, 6, 5)
    path.write_text("one 5\none 1\n")
    with pytest.raises(UserError, match="'one' twice"):
        Dictionary.load(path)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"subwords": "wordpiece"}, "subwords is 'wordpiece'; choose from bpe, sentencepiece"),
        ({"subwords": "bpe"}, "needs a file, codes"),
        ({"subwords": "none", "case": "truecase"}, "needs a file, truecase_model"),
        ({"subwords": "none", "moses": "yes"}, "moses is 'yes'; it is true or false"),
        ({"codes": "none.codes"}, "codes: there is no file"),
        ({"bpe": True}, "unknown key 'bpe'"),
        ({"subwords": "none", "domain": ["x"]}, r"domain is \['x'\]; it has to be text"),
        ({"subwords": "none", "separator": ""}, "separator is ''; it is text without blanks"),
        ({"subwords": "none", "longest": "55"}, "longest is '55'; it is a number of tokens, 1 or"),
        ({"subwords": "none", "longest": -5}, "longest is -5; it is a number of tokens"),
        ({"subwords": "none", "longest": True}, "longest is True; it is a number of tokens"),
        ({"subwords": "none", "untrained": ["x"]}, "untrained has names of forms"),
        ({"subwords": "none", "untrained": {"figures": 5}}, "untrained has names of forms"),
        ({"subwords": "none", "untrained": {"figures": ["5", "2"]}}, r"\[expression, most\]"),
        ({"subwords": "none", "untrained": {"figures": ["5", 2, 3]}}, r"\[expression, most\]"),
        ({"subwords": "none", "untrained": {"figures": ["5", -1]}}, r"\[expression, most\]"),
        ({"subwords": "none", "untrained": {"dots": "("}}, "untrained: dots: .* cannot be used"),
        ({"subwords": "none", "untrained": {"dots": "(a+)+b"}}, "could take for ever"),
    ],
)
def test_a_wrong_section_is_refused(section, message, tmp_path):
    with pytest.raises(UserError, match=message):
        TextOptions.from_mapping(section, tmp_path)


def test_a_section_is_written_as_it_is_read(codes):
    untrained = {"prices": "[$]", "lists": [", ", 3]}
    options = TextOptions(
        codes=codes, moses=True, case="lower", unknown="keep", untrained=untrained
    )
    section = options.to_mapping(codes.parent)
    assert section == {
        "subwords": "bpe",
        "codes": "bpe.codes",
        "moses": True,
        "case": "lower",
        "unknown": "keep",
        "untrained": untrained,
    }
    assert TextOptions.from_mapping(section, codes.parent) == options


@pytest.mark.parametrize("subwords", ["bpe", "sentencepiece"])
@pytest.mark.parametrize("kind", ["gigabytes", "pipe", "device", "folder"])
def test_a_file_of_gigabytes_and_what_is_no_file_are_refused_unread(
    subwords, kind, tmp_path, bpe_tokenizer
):
    path = tmp_path / "codes"
    if kind == "gigabytes":
        with path.open("wb") as file:
            file.truncate(3 << 30)  # takes no room on the disk
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path)
    others = "is not a file; give|no SentencePiece model at"
    message = "more than 67108864 bytes" if kind == "gigabytes" else others
    with pytest.raises(UserError, match=message):
        Tokenizer(
            TextOptions(subwords=subwords, codes=path),
            bpe_tokenizer.src_dict,
            bpe_tokenizer.tgt_dict,
        )


@pytest.mark.parametrize("content", [b"", b"no model", b"\x00\xff" * 99])
def test_a_file_of_something_else_is_refused(content, tmp_path, bpe_tokenizer):
    path = tmp_path / "spm.model"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a SentencePiece model"):
        Tokenizer(
            TextOptions(subwords="sentencepiece", codes=path),
            bpe_tokenizer.src_dict,
            bpe_tokenizer.tgt_dict,
        )
    path.write_bytes(b"the (1/2) The\n")
    with pytest.raises(UserError, match="is not a truecase model"):
        Tokenizer(
            TextOptions(subwords="none", case="truecase", truecase_model=path),
            bpe_tokenizer.src_dict,
            bpe_tokenizer.tgt_dict,
        )


@given(st.text())
def test_any_text_is_decoded_to_one_line(piece_tokenizer, text):
    if normalise(text, "none"):
        ids = piece_tokenizer.encode(text)
        assert len(piece_tokenizer.decode(ids[1:]).splitlines()) <= 1
