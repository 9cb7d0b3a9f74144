"""Translation of text: order, batches, empty lines, and refusals."""

import dataclasses
import io
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from train_model.cli import UserError
from train_model.data.files import decode_lines, read_lines
from train_model.data.text import TextOptions, patterns
from train_model.data.tokenizer import Tokenizer
from train_model.model_folder import find_model
from trt_code import translate
from trt_code.runners import RUNNERS, create
from trt_code.tests.runners import fake_runner
from trt_code.tests.runners.fake_runner import FakeRunner
from trt_code.tests.tiny import SENTENCES, WORDS
from trt_code.text import choice, pipeline
from trt_code.text.codec import Codec
from trt_code.text.translator import LineTranslator


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
    assert texts(LineTranslator(runner, tokenizer, max_tokens, max_sentences), lines) == lines
    assert all(batch <= max_sentences for batch, _ in runner.shapes)


@pytest.mark.parametrize(("shares_threads", "calls"), [(False, 1), (True, 2)])
def test_a_file_on_a_cpu_has_two_calls_at_a_time_where_they_share_threads(shares_threads, calls):
    runner = FakeRunner()
    runner.shares_threads = shares_threads
    assert translate.start_runners(lambda: runner, many=True) == [runner] * calls
    assert translate.start_runners(lambda: runner, many=False) == [runner]
    assert translate.count_processes("cpu", many=True) == 0


@pytest.mark.parametrize("twin", [FakeRunner(), None])
def test_a_file_on_a_gpu_has_two_runners_and_processes(twin, monkeypatch):
    """A twin has the first runner's weights; without one, the second is opened as the first."""
    opened = []

    def open_one():
        opened.append(FakeRunner())
        opened[-1].device, opened[-1].twin = "cuda", lambda: twin
        return opened[-1]

    found = translate.start_runners(open_one, many=True)
    assert found == [opened[0], twin or opened[1]]
    assert len(opened) == (1 if twin else 2)
    assert translate.start_runners(open_one, many=False) == opened[-1:]
    monkeypatch.setattr(translate, "processors", lambda: 400)
    assert translate.count_processes("cuda", many=True) == translate.MAX_PROCESSES
    assert translate.count_processes("cuda", many=False) == 0


def test_a_batch_gives_what_each_line_gives_alone(tiny_files, tiny_build, tokenizer):
    from trt_code.runners import create

    lines = [*SENTENCES, "", "seven"] * 3
    with create("ort", tiny_files, "fp32", "cpu", build_dir=tiny_build) as runner:
        together = texts(LineTranslator(runner, tokenizer), lines)
        alone = [texts(LineTranslator(runner, tokenizer), [line])[0] for line in lines]
    assert together == alone
    assert together[5] == ""


def test_empty_lines_stay_empty_and_reach_no_runner(tokenizer):
    runner, done = FakeRunner(), []
    translator = LineTranslator(runner, tokenizer)
    assert texts(translator, ["", " \t\x00 ", "one", "\u3000"], done=done.append) == [
        "",
        "",
        "one",
        "",
    ]
    assert runner.shapes == [(1, 3)]
    assert sum(done) == 4


def test_tokens_are_counted_with_both_ends(tokenizer):
    (translation,) = LineTranslator(FakeRunner(), tokenizer).translate(["two hundred and three"])
    assert translation.tokens == 6


def test_a_long_line_is_refused_by_its_number_or_cut(tokenizer):
    longest, too_long = " ".join(WORDS[:11] * 2), " ".join(["one"] * 23)
    assert texts(LineTranslator(FakeRunner(), tokenizer), [longest]) == [longest]
    runner = FakeRunner()
    with pytest.raises(
        UserError, match=r"line 12: 25 tokens are more than the 24 positions .* --too-long"
    ):
        LineTranslator(runner, tokenizer).translate(["one", "two", too_long], first_line=10)
    assert runner.shapes == []
    cut = texts(LineTranslator(runner, tokenizer, too_long="cut"), [too_long])
    assert cut == [" ".join(["one"] * 22)]


@pytest.mark.parametrize("line", ["one \udcff", "\ud800", "one\udc00two"])
def test_text_that_is_not_utf8_is_refused(tokenizer, line):
    """An argument in another encoding has such characters; JSON can have them as well."""
    with pytest.raises(UserError, match=r"line 2 is not UTF-8 text: .*convert it to UTF-8"):
        LineTranslator(FakeRunner(), tokenizer).translate(["one", line])
    skipped = LineTranslator(FakeRunner(), tokenizer, on_error="skip").translate(["one", line])
    assert [one.text for one in skipped] == ["one", ""]


@pytest.mark.timeout(20)
def test_an_endless_word_is_refused_at_once(tokenizer):
    with pytest.raises(UserError, match="line 1: 10000000 characters"):
        LineTranslator(FakeRunner(), tokenizer).translate(["x" * 10_000_000])
    cut = texts(
        LineTranslator(FakeRunner(), tokenizer, too_long="cut", unknown="keep"), ["one " * 10**6]
    )
    assert cut == [" ".join(["one"] * 22)]


def test_unknown_symbols_are_refused_by_name_or_kept(tokenizer):
    with pytest.raises(UserError, match=r"line 2: .* no '.'.*--unknown keep"):
        LineTranslator(FakeRunner(), tokenizer).translate(["one", "one ж two"])
    assert texts(LineTranslator(FakeRunner(), tokenizer, unknown="keep"), ["one ж two"]) == [
        "one two"
    ]


def test_bytes_of_another_encoding_are_refused_whatever_happens_to_unknown_units(tokenizer):
    (line,) = decode_lines(io.BytesIO(b"one caf\xe9\n"), "stdin", "surrogateescape")
    with pytest.raises(UserError, match="line 1 is not UTF-8 text"):
        texts(LineTranslator(FakeRunner(), tokenizer, unknown="keep"), [line])


@pytest.fixture
def fake(monkeypatch, zoo):
    monkeypatch.setitem(RUNNERS, "fake", fake_runner.SPECS)
    monkeypatch.setattr(choice, "CANDIDATES", ("fake",))


def run_translate(monkeypatch, *arguments: str, stdin: bytes = b"") -> int:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    return translate.main(["--model", "tiny", "--device", "cpu", *arguments])


def test_stdin_to_stdout(fake, monkeypatch, capsys):
    lines = ["one two", "", "three hundred", "ten"]
    run_translate(monkeypatch, stdin="\n".join(lines).encode())
    captured = capsys.readouterr()
    assert captured.out.split("\n") == [*lines, ""]
    assert captured.err == ""


def test_windows_keep_order_and_line_numbers(fake, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "WINDOW", 3)
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


def test_a_line_unlike_the_training_text_gets_a_warning(tiny_files, tmp_path, monkeypatch, capsys):
    seen = tmp_path / "seen.txt"
    seen.write_text("one\ntwo\n0\n")
    text = dataclasses.replace(tiny_files.text, domain="numbers", seen=seen, longest=5)
    tokenizer = Tokenizer.from_files(dataclasses.replace(tiny_files, text=text))
    found = LineTranslator(FakeRunner(), tokenizer, on_error="skip").translate(
        ["one two", "one ten", "one two one two", "", "ж"]
    )
    assert [one.warning for one in found] == [
        "",
        "line 2: this model knows numbers; it was not trained on words like 'ten': the translation may be "
        "wrong",
        "line 3: this model knows numbers; 6 tokens, and 5 is the most that it was trained on: the "
        "translation may be wrong",
        "",
        "",
    ]
    assert found[1].text == "one ten"
    assert found[4].error.startswith(
        "line 5: this model knows numbers; the model's dictionary has no 'ж'"
    )


@pytest.mark.parametrize("model", ["demo", "demo-ar"])
def test_the_demo_warns_of_the_forms_that_it_was_not_trained_on(model):
    files = find_model(model)
    codec = Codec(Tokenizer.from_files(files), None)
    currencies, half_hours, lists, joints = files.text.untrained
    expected = {
        "twenty one dollars": currencies,
        "five pounds or half past three.": f"{currencies}, or on {half_hours}",
        "ten, Friday, March 5, 2021, 10%, $7.50, and 3": lists,
        "one or two and also three": joints,
    }
    _, notes = codec.encode_lines(list(expected), 1)
    for index, forms in enumerate(expected.values()):
        assert (
            f"dates, times, prices and quantities; it was not trained on {forms}:"
            in notes[index].warning
        )
    typed = ["$5", "CHF1,250", "three hundred forty two.", "one hundred five US dollars", "$5."]
    _, notes = codec.encode_lines([*typed, *read_lines(files.test_src)], 1)
    assert not notes


def test_patterns_of_words_leave_figures_out_and_split_the_last_mark():
    assert patterns("$12.50, 3 May! . 4..") == ["$0.0", ",", "0", "May", "!", ".", "0.", "."]


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


def test_skipped_lines_are_reported_and_the_others_translated(fake, monkeypatch, capsys):
    lines = "one\nж two\nthree\n"
    assert run_translate(monkeypatch, "--on-error", "skip", stdin=lines.encode()) == 1
    captured = capsys.readouterr()
    assert captured.out == "one\n\nthree\n"
    assert captured.err.startswith("skipped: line 2: the model's dictionary has no")
    assert run_translate(monkeypatch, "--on-error", "skip", stdin=b"one\n") == 0


def test_unknown_symbols_are_dropped(tokenizer):
    translator = LineTranslator(FakeRunner(), tokenizer, unknown="drop")
    assert texts(translator, ["one ж two", "ж"]) == ["one two", ""]


def test_json_has_the_source_the_scores_and_the_units(fake, monkeypatch, capsys):
    assert run_translate(monkeypatch, "--format", "json", stdin=b"two hundred\n\n") == 0
    first, empty = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "line": 1,
        "source": "two hundred",
        "text": "two hundred",
        "hypotheses": [
            {
                "text": "two hundred",
                "score": -1.0,
                "tokens": ["two", "hundred"],
                "token_scores": [-1.0, -1.0],
            }
        ],
    }
    assert empty == {"line": 2, "source": "", "text": "", "hypotheses": []}


def test_json_has_the_reason_of_a_skipped_line(fake, monkeypatch, capsys):
    assert run_translate(monkeypatch, "--format", "json", "--on-error", "skip", "ж") == 1
    assert "no 'ж'" in json.loads(capsys.readouterr().out)["error"]


def test_scores_as_text_have_columns(fake, monkeypatch, capsys):
    run_translate(monkeypatch, "--scores", "one", "two")
    assert capsys.readouterr().out == "1\t-1.0000\tone\n2\t-1.0000\ttwo\n"


def test_several_translations_need_a_runner_that_gives_them(fake, monkeypatch, capsys):
    monkeypatch.setattr(fake_runner, "fault", "unavailable")  # refused before the file is opened
    with pytest.raises(UserError, match="fake gives one translation per sentence"):
        run_translate(monkeypatch, "--runner", "fake", "--n-best", "3", "one")
    run_translate(monkeypatch, "--n-best", "3", "one")
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_input_and_output_in_units(fake, monkeypatch, capsys):
    run_translate(monkeypatch, "--segmented", "t@@ w@@ o one")
    assert capsys.readouterr().out == "t@@ w@@ o one\n"


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


def test_a_terminal_gives_a_prompt_and_answers_line_by_line(fake, monkeypatch, capsys):
    entered = iter(["one two", "ж", "three"])
    shown = []

    def ask(prompt):
        shown.append(capsys.readouterr().out)
        assert prompt == "> "
        try:
            return next(entered)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO()))
    assert translate.main(["--model", "tiny", "--device", "cpu"]) == 0
    assert shown == ["", "one two\n", "", "three\n"]


def test_lengths_next_to_the_predicted_one():
    from trt_code.runners.one_pass.several_lengths import nearest_lengths

    lengths = nearest_lengths(np.array([5, 3, 2, 9]), 4, 6)
    assert lengths.tolist() == [[5, 4, 6, 3], [3, 4, 5, 6], [2, 3, 4, 5], [6, 5, 4, 3]]
    assert nearest_lengths(np.array([3]), 4, 4).tolist() == [[3, 4, 0, 0]]


def test_candidates_of_one_pass_are_those_of_the_decoder_alone(tiny_files, tiny_halves):
    """Each hypothesis is what the decoder gives for its length; the first is what ``run`` gives."""
    from train_model.models.canvas import initial_canvas
    from train_model.models.checkpoint import load_checkpoint
    from train_model.models.split import SplitDecoder, SplitEncoder
    from trt_code.runners import create

    tokens = Tokenizer.from_files(tiny_files).encode("two hundred and three")
    source = np.array([tokens, [*tokens[:-2], 2, 1]])
    with create("torch", tiny_files, "fp32", "cpu") as runner:
        in_pytorch = runner.candidates(source, 3)
    with create("ort-split", tiny_files, "fp32", "cpu", build_dir=tiny_halves) as runner:
        found, plain = runner.candidates(source, 3), runner.run(source)
    longest = found.lengths.max()  # the canvas may be wider
    for name, one in vars(found).items():
        cut = (slice(None), slice(None), slice(longest))[: one.ndim]
        np.testing.assert_allclose(one[cut], getattr(in_pytorch, name)[cut], atol=1e-4)
    assert found.counts.tolist() == [3, 3]
    assert (found.scores[:, 1] >= found.scores[:, 2]).all()
    model = load_checkpoint(tiny_files.checkpoint).model.eval()
    with torch.inference_mode():
        encoded, predicted = SplitEncoder(model)(torch.from_numpy(source))
        for row in range(2):
            lengths = found.lengths[row] + 1
            assert lengths[0] == predicted[row]
            assert sorted(lengths - lengths[0]) == [-1, 0, 1]
            for rank in range(3):
                canvas = initial_canvas(lengths[rank : rank + 1], int(lengths[rank]))
                expected, scores = SplitDecoder(model)(
                    torch.from_numpy(source[row : row + 1]),
                    encoded[row : row + 1],
                    torch.from_numpy(canvas),
                )
                width = found.lengths[row, rank]
                assert found.tokens[row, rank, :width].tolist() == expected[0, 1:].tolist()
                np.testing.assert_allclose(
                    found.positional_scores[row, rank, :width], scores[0, 1:], atol=1e-4
                )
        assert (found.tokens[:, 0] == plain.tokens[:, 1:]).all()


def test_the_fastest_of_two_is_measured_once(tiny_files, tmp_path, monkeypatch, capsys):
    from trt_code.runners import Runner

    opened = []

    class Timed(FakeRunner):
        def run(self, src_tokens):
            time.sleep(0.002 if (self.name == "slow") == (len(src_tokens) == 1) else 0)
            return super().run(src_tokens)

    def create(name, *_, **__) -> Runner:
        opened.append(name)
        runner = Timed()
        runner.name = name
        return runner

    for name in ("slow", "fast"):
        monkeypatch.setitem(RUNNERS, name, fake_runner.SPECS)
    monkeypatch.setattr(choice, "CANDIDATES", ("slow", "fast"))
    monkeypatch.setattr(choice, "create", create)
    folder = tmp_path / tiny_files.name
    folder.mkdir()
    (folder / "model.onnx").touch()

    def opens(load):
        runner = choice.open_runner("auto", tiny_files, "fp32", "cpu", load, build_dir=tmp_path)
        return runner.name

    assert opens("one") == "fast"
    assert "fastest here for 1 x 16 tokens: slow" in capsys.readouterr().err
    assert opened == ["slow", "fast"]
    assert (opens("one"), opens("many")) == ("fast", "slow")
    assert opened == ["slow", "fast", "fast", "slow"]
    os.utime(folder / "model.onnx", (0, 0))
    assert opens("one") == "fast"
    assert opened[4:] == ["slow", "fast"]
    (folder / "fastest.json").write_text("[]")
    assert opens("many") == "slow"


WITHOUT_TORCH = """
import pickle, sys
from pathlib import Path
from trt_code import translate
files = pickle.loads(Path(sys.argv[1]).read_bytes())
translate.find_model = lambda *_: files
translate.main(["--device", "cpu", "--build-dir", sys.argv[2], "--n-best", "2", *sys.argv[3:]])
print([name for name in ("torch", "onnx", "onnx_ir") if name in sys.modules])
"""


def run_without_torch(files, build, folder, *arguments: str) -> list[str]:
    """Return the output lines of a process that translates and then names the large packages it imported.

    An earlier program has opened the graphs, since the first one checks them with the package onnx.
    """
    runner = "ort" if files.autoregressive else "ort-split"
    create(runner, files, "fp32", "cpu", build_dir=build).close()
    pickled = folder / "files"
    pickled.write_bytes(pickle.dumps(files))
    command = [sys.executable, "-c", WITHOUT_TORCH, str(pickled), str(build), *arguments]
    reply = subprocess.run(command, capture_output=True, text=True)
    assert reply.returncode == 0, reply.stderr
    return reply.stdout.splitlines()


def test_a_one_pass_network_needs_no_pytorch(tiny_files, tiny_halves, tmp_path):
    build = shutil.copytree(tiny_halves, tmp_path / "build")
    *translations, imported = run_without_torch(tiny_files, build, tmp_path, "two", "ten")
    assert [line[0] for line in translations] == ["1", "1", "2", "2"]
    assert imported == "[]"


def test_an_autoregressive_network_needs_no_pytorch(tiny_files, tmp_path):
    from onnx_export import export

    fixture = Path(export.__file__).parents[1] / "train_model/tests/fixtures/checkpoint_ar.pt"
    dictionary = tmp_path / "dict.txt"
    dictionary.write_text("".join(f"w{index} 1\n" for index in range(196)))
    files = dataclasses.replace(
        tiny_files,
        name="small",
        architecture="transformer_multibranch_v2",
        checkpoint=fixture,
        src_dict=dictionary,
        tgt_dict=dictionary,
        text=TextOptions(subwords="none"),
    )
    output = tmp_path / "small" / "model.onnx"
    export.main(["--checkpoint", str(fixture), "--output", str(output)])
    *translations, imported = run_without_torch(files, tmp_path, tmp_path, "--beam", "3", "w5 w9")
    assert [line[0] for line in translations] == ["1", "1"]
    assert imported == "[]"
