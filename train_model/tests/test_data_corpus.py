"""The demo corpus: reproducible, unambiguous, and with no content in two splits."""

import itertools
import random
import re
from pathlib import Path

import pytest

from train_model.data.corpora import demo
from train_model.data.corpora.demo import phrases, sentences
from train_model.data.text import patterns

DEMO = Path(demo.__file__).parents[4] / "data_model/demo"
SIZES = {"train": 3000, "valid": 300, "test": 300}
# prices without cents, numerals without their hyphen, and a mark at the end
TYPED_FORMS = (
    r"(?:[$€£]|CHF|SEK)[0-9,]{1,12}(?![.,]?[0-9])",
    r"\b[a-z]+ty (?:one|two|five|nine)\b",
    "[.?!]$",
)
CONJUNCTIONS = re.compile("|".join(re.escape(joint[0]) for joint in sentences.JOINTS) + "|, and ")


@pytest.fixture(scope="module")
def splits() -> dict[str, list[sentences.Pair]]:
    return sentences.generate(SIZES, seed=1)


def possible_phrases(source: str) -> set[str]:
    """Return all texts between two joints, for every reading of the commas (dates have commas too)."""
    found = set()
    for part in CONJUNCTIONS.split(source):
        pieces = part.split(", ")
        for start, end in itertools.combinations(range(len(pieces) + 1), 2):
            found.add(", ".join(pieces[start:end]))
    return found


def test_demo_sizes_are_those_promised():
    assert demo.SIZES["train"] >= 50_000
    assert demo.SIZES["test"] == demo.SIZES["valid"] == 2000


def test_same_seed_same_corpus_other_seed_another(splits):
    assert sentences.generate(SIZES, seed=1) == splits
    assert sentences.generate(SIZES, seed=2)["test"] != splits["test"]


def test_the_demo_has_the_patterns_of_its_training_text(splits):
    seen = set((DEMO / "seen.txt").read_text(encoding="utf-8").splitlines())
    found = {word for pair in splits["train"] for word in patterns(pair.source)}
    assert found <= seen
    assert len(seen) < 1.1 * len(found | {word for word in seen if "-" in word})


def test_sizes_and_no_repeated_sentence(splits):
    for split, pairs in splits.items():
        assert len(pairs) == SIZES[split]
    sources = [pair.source for pairs in splits.values() for pair in pairs]
    assert len(set(sources)) == len(sources)


def test_every_source_has_one_translation(splits):
    known: dict[str, str] = {}
    for pair in itertools.chain(*splits.values()):
        assert known.setdefault(pair.source, pair.target) == pair.target


@pytest.mark.parametrize(
    ("held_out", "other"), [("test", "train"), ("test", "valid"), ("valid", "train")]
)
def test_no_phrase_of_one_split_occurs_in_another(splits, held_out, other):
    held = {pair.source for pair in splits[held_out] if pair.phrases == 1}
    seen = set().union(*(possible_phrases(pair.source) for pair in splits[other]))
    assert held.isdisjoint(seen)


def test_a_content_has_one_split_in_every_form():
    rng = random.Random(0)
    by_key: dict[str, set[str]] = {}
    for _ in range(4000):
        phrase = phrases.date(rng)
        by_key.setdefault(phrase.key, set()).add(phrase.source)
    assert any(len(forms) > 1 for forms in by_key.values())
    assert {sentences.split_of(key, 1) for key in by_key} == set(sentences.SPLITS)


def test_joined_sentences_have_two_to_four_phrases(splits):
    counts = [pair.phrases for pair in splits["train"]]
    shares = {count: 100 * counts.count(count) / len(counts) for count in set(counts)}
    assert set(shares) == {1, 2, 3, 4}
    assert shares[1] == pytest.approx(sentences.JOINED_LENGTHS[1], abs=0.1)


class Script:
    """A mock random number generator that returns the test's values."""

    def __init__(self, *values):
        self._values = iter(values)

    def randrange(self, *limits):
        return next(self._values)

    randint = randrange

    def random(self):
        return next(self._values)

    def choice(self, options):
        return next(
            option for wanted in [next(self._values)] for option in options if option == wanted
        )

    def choices(self, options, weights):
        return [next(self._values)]


@pytest.mark.parametrize(
    ("kind", "drawn", "source", "target"),
    [
        ("cardinal", [3, 342], "three hundred and forty-two", "dreihundertzweiundvierzig"),
        (
            "cardinal",
            [6, 701016],
            "seven hundred and one thousand and sixteen",
            "siebenhunderteinstausendsechzehn",
        ),
        ("ordinal", [2, 42], "the forty-second", "der zweiundvierzigste"),
        ("year", [1984], "in nineteen eighty-four", "im Jahr neunzehnhundertvierundachtzig"),
        ("decimal", [5, 12345, 6, 67, 0.67], "12,345.67", "12.345,67"),
        ("percentage", [455], "45.5%", "45,5 %"),
        ("date", [44258, ("full", "full")], "Friday, March 5, 2021", "Freitag, 5. März 2021"),
        ("date", [44258, ("M/d/yyyy", "dd.MM.yyyy")], "3/5/2021", "05.03.2021"),
        ("spoken_day", [60], "on the first of March", "am ersten März"),
        ("clock", [0, 5], "12:05 AM", "00:05 Uhr"),
        ("spoken_time", [12, 30], "half past twelve", "halb eins"),
        ("spoken_time", [12, 59], "one minute to one", "eine Minute vor eins"),
        ("spoken_time", [1, 0], "one o'clock", "ein Uhr"),
        ("spoken_time", [3, 15], "quarter past three", "Viertel nach drei"),
        ("price", [4, 1234, 50, "USD"], "$1,234.50", "1.234,50 $"),
        ("bare_price", [4, 1233, "USD"], "$1,234", "1.234 $"),
        ("spoken_price", [2, 12, "CHF"], "twelve Swiss francs", "zwölf Schweizer Franken"),
        ("quantity", [4, 1250, 0, "length-kilometer"], "1,250 kilometers", "1.250 Kilometer"),
        (
            "spoken_quantity",
            [2, 42, "mass-kilogram"],
            "forty-two kilograms",
            "zweiundvierzig Kilogramm",
        ),
    ],
)
def test_translations_that_a_german_speaker_checked(kind, drawn, source, target):
    phrase = getattr(phrases, kind)(Script(*drawn))
    assert (phrase.source, phrase.target) == (source, target)


def test_the_typed_forms_are_in_the_training_text(splits):
    sources = [pair.source for pair in splits["train"]]
    for form in TYPED_FORMS:
        assert sum(bool(re.search(form, source)) for source in sources) > 0.05 * len(sources), form


def test_a_mark_at_the_end_stays():
    ends = [(pair.source[-1], pair.target[-1]) for pair in sentences.generate(SIZES, 3)["train"]]
    marked = [end for end in ends if end[0] in sentences.MARKS or end[1] in sentences.MARKS]
    assert all(source == target for source, target in marked)
    share = sum(sentences.MARKS.values()) / 100
    assert len(marked) / len(ends) == pytest.approx(share, abs=0.03)


def test_loose_numerals_have_no_hyphen_and_not_always_an_and():
    loose = phrases.loosely(phrases.cardinal)
    for chance, source in ((0.4, "three hundred forty two"), (0.6, "three hundred and forty two")):
        assert loose(Script(3, 342, chance))[:2] == (source, "dreihundertzweiundvierzig")


def test_lists_and_conjunctions():
    one, two, three = (phrases.Phrase(text, text.upper(), text) for text in ("a", "b", "c"))
    assert sentences.join([one, two, three], random.Random(0)) == ("a, b, and c", "A, B und C", 3)
    assert sentences.join([one, two], Script((" or ", " oder "))) == ("a or b", "A oder B", 2)
