"""The pipeline gives the translator's results for any overlap of its stages."""

import concurrent.futures
import functools
import json
import time
from collections.abc import Callable

import numpy as np
import pytest

from train_model.cli import UserError
from train_model.data.tokenizer import Tokenizer
from trt_code.measure import throughput
from trt_code.measure.throughput import make_codec
from trt_code.runners.base import Output
from trt_code.tests.runners.fake_runner import FakeRunner
from trt_code.tests.tiny import SENTENCES
from trt_code.text import pipeline
from trt_code.text.pipeline import Pipeline, start_processes
from trt_code.text.translator import LineTranslator

LINES = [*SENTENCES, "", "  ", *SENTENCES[::-1], "nine"] * 3


class Backwards(FakeRunner):
    """Returns the words of a sentence in reverse."""

    def run(self, src_tokens: np.ndarray) -> Output:
        output = super().run(src_tokens)
        for row in output.tokens:
            end = int((row != 1).sum()) - 1
            row[1:end] = row[1:end][::-1].copy()
        return output


@pytest.fixture
def codec(tiny_files):
    return functools.partial(make_codec, tiny_files)


def expected(tiny_files):
    return LineTranslator(Backwards(), Tokenizer.from_files(tiny_files)).translate(LINES)


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize("runners", [1, 3])
def test_order_and_texts_are_the_translators(processes, runners, codec, tiny_files, monkeypatch):
    monkeypatch.setattr(pipeline, "WINDOW", 7)
    monkeypatch.setattr(pipeline, "CHUNK", 3)
    made = [Backwards() for _ in range(runners)]
    with Pipeline(
        start_processes(codec, processes), made, max_tokens=40, max_sentences=3
    ) as running:
        translations = list(running.translate(iter(LINES)))
        spent = running.spent
    assert translations == expected(tiny_files)
    assert spent.sentences == sum(bool(line.strip()) for line in LINES)
    assert spent.target_tokens == spent.source_tokens <= spent.padded_tokens
    assert sum(len(runner.shapes) for runner in made) == spent.batches
    assert all(b * s <= 40 and b <= 3 for runner in made for b, s in runner.shapes)


@pytest.mark.parametrize("processes", [0, 2])
def test_a_fault_of_the_tokenizer_is_one_line(processes):
    def broken():
        raise UserError("bpe.codes line 1: this is not a UTF-8 text file")

    with pytest.raises(UserError, match=r"bpe\.codes"):
        start_processes(broken, processes)


def test_sentences_are_as_long_as_the_runner_allows(codec):
    runner = Backwards()
    with Pipeline(start_processes(codec, 0), [runner], 40, 3) as running:
        list(running.translate([" ".join(["one"] * 30)]))
    assert runner.shapes == [(1, runner.max_source)]


def test_windows_are_given_as_they_are_ready(codec, monkeypatch):
    monkeypatch.setattr(pipeline, "WINDOW", 2)
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield "two"

    with Pipeline(start_processes(codec, 0), [Backwards()], 40, 3) as running:
        translations = running.translate(endless())
        assert [next(translations).text for _ in range(4)] == ["two"] * 4
    assert read < 20


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_runner_goes_on_while_the_caller_is_busy(codec, monkeypatch):
    monkeypatch.setattr(pipeline, "WINDOW", 2)
    runner = Backwards()
    with Pipeline(start_processes(codec, 0), [runner], 40, 2) as running:
        windows = running.windows(["two", "three"] * 3)
        assert next(windows).texts == ["two", "three"]
        wait_for(lambda: len(runner.shapes) == 2)
        assert [text for window in windows for text in window.texts] == ["two", "three"] * 2


def test_the_share_of_time_is_that_of_one_gpu(tmp_path, monkeypatch):
    """nvidia-smi writes a line for each GPU, and another program may use the others."""
    fake = tmp_path / "nvidia-smi"
    fake.write_text(
        "#!/bin/sh\ncase \"$*\" in *--id=GPU-7*) all=20;; *) all='20 100';; esac\n"
        f"for pass in 1 2 3 4 5 6; do printf '%s\\n' $all; done\n: > {tmp_path}/written\nsleep 60\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with throughput.GpuBusy("GPU-7") as gpu:
        wait_for((tmp_path / "written").exists)
    assert gpu.share == 0.2


def test_close_waits_for_a_batch_and_not_for_a_window(codec):
    """Ctrl-C closes the pipeline, and a window can take minutes on a CPU."""

    class Slow(Backwards):
        def run(self, src_tokens):
            time.sleep(0.1)
            return super().run(src_tokens)

    runner = Slow()
    with (
        Pipeline(start_processes(codec, 0), [runner], 40, 1) as running,
        concurrent.futures.ThreadPoolExecutor() as caller,
    ):
        window = caller.submit(next, running.windows(["two"] * 500))
        wait_for(lambda: runner.shapes)
        running.close()
        with pytest.raises(concurrent.futures.CancelledError):
            window.result()
    assert len(runner.shapes) < 100


def test_a_runner_that_fails_ends_the_run(codec):
    class Broken(FakeRunner):
        def run(self, src_tokens):
            raise UserError("out of memory")

    with (
        Pipeline(start_processes(codec, 0), [Broken(), Backwards()], 40, 3) as running,
        pytest.raises(UserError, match="out of memory"),
    ):
        list(running.translate(LINES))


def test_throughput_counts_and_writes(tiny_files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(throughput, "find_model", lambda name, build_dir: tiny_files)
    monkeypatch.setattr(throughput, "open_runner", lambda *_, **__: Backwards())
    monkeypatch.setattr(throughput, "start_processes", lambda codec, _: start_processes(codec, 0))
    text = tmp_path / "many.txt"
    text.write_text("\n".join(["two hundred", "three"] * 10) + "\n")
    flags = ["--device", "cpu", "--text", str(text), "--output", str(tmp_path), "--repeats", "1"]
    throughput.main(flags)
    rows = json.loads((tmp_path / "throughput.json").read_text())["rows"]
    assert [(row["text"], row["sentences"]) for row in rows] == [
        ("test split", len(SENTENCES)),
        ("many.txt", 20),
    ]
    for row in rows:
        assert row["sentences_per_s"] == pytest.approx(row["sentences"] / row["seconds"])
        assert row["padding_share"] >= 0
    page = (tmp_path / "throughput.md").read_text()
    assert "| many.txt | 20 |" in page
    assert "many.txt" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "\n", " \n\t\n"])
def test_throughput_of_a_file_without_a_sentence(tiny_files, tmp_path, monkeypatch, text):
    monkeypatch.setattr(throughput, "find_model", lambda name, build_dir: tiny_files)
    (tmp_path / "none.txt").write_text(text)
    with pytest.raises(UserError, match=r"none\.txt has no sentence in it"):
        throughput.main(["--device", "cpu", "--text", str(tmp_path / "none.txt")])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n_best", [0, 1])
def test_a_score_that_is_not_a_number_is_never_a_translation(value, n_best, codec, tiny_files):
    """One such row fails the whole batch: its own tokens are meaningless, and the other rows are doubtful."""

    class Broken(Backwards):
        def run(self, src_tokens: np.ndarray) -> Output:
            output = super().run(src_tokens)
            output.scores[-1, 1] = value
            return output

    with pytest.raises(UserError, match="scores that are infinite or not numbers"):
        LineTranslator(Broken(), Tokenizer.from_files(tiny_files)).translate(LINES, n_best=n_best)
    with (
        Pipeline(start_processes(codec, 0), [Broken()], 40, 3, n_best) as running,
        pytest.raises(UserError, match="scores that are infinite or not numbers"),
    ):
        list(running.translate(iter(LINES)))
