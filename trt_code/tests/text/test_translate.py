"""Text in, text out: order, batches, empty lines, and what is refused."""

import io
import itertools
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from train_model.cli import UserError
from train_model.data.tokenizer import Tokenizer
from trt_code import translate
from trt_code.runners import RUNNERS
from trt_code.tests.conftest import SENTENCES, WORDS
from trt_code.tests.runners import fake_runner
from trt_code.tests.runners.fake_runner import FakeRunner
from trt_code.text.translator import Translator


@pytest.fixture(scope="module")
def tokenizer(tiny_files):
    return Tokenizer.from_files(tiny_files)


def texts(translator, lines, **options) -> list[str]:
    return [translation.text for translation in translator.translate(lines, **options)]


LINES = st.lists(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join), max_size=40)


@given(LINES, st.integers(1, 60), st.integers(1, 7))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_order_is_kept_whatever_the_batches(tokenizer, lines, max_tokens, max_sentences):
    runner = FakeRunner()
    assert texts(Translator(runner, tokenizer, max_tokens, max_sentences), lines) == lines
    assert all(batch <= max_sentences for batch, _ in runner.shapes)


def test_a_batch_gives_what_each_line_gives_alone(tiny_files, tiny_build, tokenizer):
    from trt_code.runners import create

    lines = [*SENTENCES, "", "seven"] * 3
    with create("ort", tiny_files, "fp32", "cpu", build_dir=tiny_build) as runner:
        together = texts(Translator(runner, tokenizer), lines)
        alone = [texts(Translator(runner, tokenizer), [line])[0] for line in lines]
    assert together == alone
    assert together[5] == ""


def test_empty_lines_stay_empty_and_reach_no_runner(tokenizer):
    runner, done = FakeRunner(), []
    translator = Translator(runner, tokenizer)
    assert texts(translator, ["", " \t\x00 ", "one", "\u3000"], done=done.append) == [
        "",
        "",
        "one",
        "",
    ]
    assert runner.shapes == [(1, 3)]
    assert sum(done) == 4


def test_tokens_are_counted_with_both_ends(tokenizer):
    (translation,) = Translator(FakeRunner(), tokenizer).translate(["two hundred and three"])
    assert translation.tokens == 6


def test_a_long_line_is_refused_by_its_number_or_cut(tokenizer):
    longest, too_long = " ".join(WORDS[:11] * 2), " ".join(["one"] * 23)
    assert texts(Translator(FakeRunner(), tokenizer), [longest]) == [longest]
    runner = FakeRunner()
    with pytest.raises(
        UserError, match=r"line 12: 25 tokens are more than the 24 positions .* --too-long"
    ):
        Translator(runner, tokenizer).translate(["one", "two", too_long], first_line=10)
    assert runner.shapes == []
    cut = texts(Translator(runner, tokenizer, too_long="cut"), [too_long])
    assert cut == [" ".join(["one"] * 22)]


@pytest.mark.timeout(20)
def test_an_endless_word_is_refused_at_once(tokenizer):
    with pytest.raises(UserError, match="line 1: 10000000 characters"):
        Translator(FakeRunner(), tokenizer).translate(["x" * 10_000_000])
    cut = texts(
        Translator(FakeRunner(), tokenizer, too_long="cut", unknown="keep"), ["one " * 10**6]
    )
    assert cut == [" ".join(["one"] * 22)]


def test_unknown_symbols_are_refused_by_name_or_kept(tokenizer):
    with pytest.raises(UserError, match=r"line 2: .* no '.'.*--unknown keep"):
        Translator(FakeRunner(), tokenizer).translate(["one", "one ж two"])
    assert texts(Translator(FakeRunner(), tokenizer, unknown="keep"), ["one ж two"]) == ["one two"]


def test_lines_are_bytes_between_newlines():
    stream = [b"\xef\xbb\xbfone\r\n", b"a\xc2\x85b\n", b"\xff\xfe\n", b"no end"]
    assert list(translate.read_lines(stream)) == ["one", "a\x85b", "\ufffd\ufffd", "no end"]


@pytest.fixture
def fake(monkeypatch, zoo):
    monkeypatch.setitem(RUNNERS, "fake", fake_runner.SPECS)
    monkeypatch.setattr(translate, "PREFERENCE", ("fake",))


def run_translate(monkeypatch, *arguments: str, stdin: bytes = b"") -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    translate.main(["--model", "tiny", "--device", "cpu", *arguments])


def test_stdin_to_stdout(fake, monkeypatch, capsys):
    lines = ["one two", "", "three hundred", "ten"]
    run_translate(monkeypatch, stdin="\n".join(lines).encode())
    captured = capsys.readouterr()
    assert captured.out.split("\n") == [*lines, ""]
    assert captured.err == ""


def test_windows_keep_order_and_line_numbers(fake, monkeypatch, capsys):
    monkeypatch.setattr(translate, "WINDOW", 3)
    monkeypatch.setattr(translate, "LONG_INPUT", 2)
    lines = list(itertools.islice(itertools.cycle(WORDS), 11))
    run_translate(monkeypatch, stdin="\n".join(lines).encode())
    assert capsys.readouterr().out.split() == lines
    with pytest.raises(UserError, match="line 12:"):
        run_translate(monkeypatch, stdin="\n".join([*lines, "ж"]).encode())
    assert capsys.readouterr().out.split() == lines[:9]


def test_text_as_arguments(fake, monkeypatch, capsys):
    run_translate(monkeypatch, "five six", "seven")
    assert capsys.readouterr().out == "five six\nseven\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "text is empty"),
        (["--max-tokens", "0", "one"], "--max-tokens is at least 1"),
        (["--precision", "int8", "one"], "fake: the fake is not here today"),
        (["--model", "mute", "one"], "has no text"),
    ],
)
def test_bad_input_is_one_line(arguments, message, fake, monkeypatch, capsys):
    with pytest.raises(UserError, match=message):
        run_translate(monkeypatch, *arguments)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("option", "value", "warned"),
    [
        ("--beam", "5", True),
        ("--beam", "1", False),
        ("--iter-decode-max-iter", "10", True),
        ("--lenpen", "0.6", True),
    ],
)
def test_options_of_beam_search_warn(option, value, warned, fake, monkeypatch, capsys):
    run_translate(monkeypatch, option, value, "one")
    captured = capsys.readouterr()
    assert captured.out == "one\n"
    assert (f"warning: {option} {value} is ignored" in captured.err) == warned
