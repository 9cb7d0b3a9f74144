"""Progress: a bar on a terminal, lines elsewhere, and never on stdout."""

import io

import pytest

from train_model import progress
from train_model.progress import stage, task, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A mock of ``time.monotonic``; a test advances it."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_stream_that_is_not_a_terminal_gets_a_line_every_30_seconds(clock):
    stream = io.StringIO()
    with task("translating", 100, "lines", stream) as shown:
        for _ in range(4):
            clock[0] += 20
            shown.advance(10)
    assert stream.getvalue() == "translating: 20 of 100 lines\ntranslating: 40 of 100 lines\n"


def test_a_total_that_is_not_known_is_not_shown(clock):
    stream = io.StringIO()
    with task("phrases", stream=stream) as shown:
        clock[0] += 60
        shown.reach(7)
    assert stream.getvalue() == "phrases: 7\n"


def test_short_work_is_silent():
    stream = io.StringIO()
    with task("translating", 2, "lines", stream) as shown:
        shown.advance(2)
    assert stream.getvalue() == ""


def test_another_part_starts_at_zero(clock):
    stream = io.StringIO()
    with task("Building", 3, stream=stream) as shown:
        shown.reach(2)
        clock[0] += 40
        shown.begin("Timing", 5)
    assert stream.getvalue() == "Timing: 0 of 5\n"


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(progress, "BAR_EVERY", 0.0)
    stream = Terminal()
    with task("translating", 4, "lines", stream) as shown:
        shown.advance(3)
    text = stream.getvalue()
    assert "translating" in text
    assert "3/4" in text


def test_track_gives_the_items_and_writes_nothing_on_stdout(capsys):
    assert list(track(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert list(track(iter("ab"), "letters")) == ["a", "b"]
    assert capsys.readouterr().out == ""


def test_a_stage_is_one_line_or_a_spinner():
    stream = io.StringIO()
    with stage("exporting model.onnx", stream):
        assert stream.getvalue() == "exporting model.onnx ...\n"
    terminal = Terminal()
    with stage("exporting model.onnx", terminal):
        pass
    assert "exporting model.onnx ..." in terminal.getvalue()
