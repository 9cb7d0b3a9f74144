"""Bench: its inputs, the checks before timing, and its results."""

import json

import numpy as np
import pytest

from train_model.cli import UserError
from trt_code import bench, report
from trt_code.runners import RUNNERS
from trt_code.tests.runners import fake_runner

TINY_AND_FAKE = ("--model", "tiny", "--runner", "torch,fake", "--precision", "fp32")


@pytest.fixture
def fake(monkeypatch):
    """Registers the runner ``fake``; the returned function sets its fault."""
    monkeypatch.setitem(RUNNERS, "fake", fake_runner.SPECS)
    return lambda fault: monkeypatch.setattr(fake_runner, "fault", fault)


def run_bench(tmp_path, *arguments: str) -> tuple[int, dict]:
    base = [
        "--repeats",
        "2",
        "--output",
        str(tmp_path),
        "--device",
        "cpu",
        "--build-dir",
        str(tmp_path),
    ]
    status = bench.main([*base, *arguments])
    return status, json.loads((tmp_path / "results.json").read_text())


def test_text_batch_takes_real_sentences_of_the_length_asked():
    rows = [[0, 2], [0, 5, 6, 2], [0, 5, 2], [0, 7, 8, 9, 2]]
    tokens, note = bench.text_batch(rows, 2, 4)
    assert tokens.tolist() == [[0, 5, 6, 2], [0, 5, 2, 1]]
    assert note == "2x4: test sentences of 3 to 4 tokens, 88% of the batch is text"
    tokens, note = bench.text_batch(rows, 3, 3)
    assert tokens.tolist() == [[0, 5, 2], [0, 2, 1], [0, 5, 2]]
    assert "(2 different)" in note
    with pytest.raises(UserError, match="the shortest: 3"):
        bench.text_batch([[0, 5, 2]], 1, 2)


def test_random_batch_is_full_and_the_same_every_time():
    tokens, _ = bench.random_batch(50, 3, 7)
    assert tokens.shape == (3, 7)
    assert (tokens[:, 0] == 0).all()
    assert (tokens[:, -1] == 2).all()
    assert ((tokens[:, 1:-1] >= 4) & (tokens[:, 1:-1] < 50)).all()
    np.testing.assert_array_equal(tokens, bench.random_batch(50, 3, 7)[0])


def test_the_whole_run(zoo, tiny_build, tmp_path, capsys):
    status, results = run_bench(
        tmp_path,
        *("--model", "tiny", "--runner", "torch,ort", "--precision", "fp32,tf32"),
        *("--shape", "2x6,1x9", "--build-dir", str(tiny_build)),
    )
    assert status == 0
    checks = [(row["runner"], row["bs"], row["sl"], row["check"]) for row in results["rows"]]
    assert checks == [
        ("torch", 2, 6, "reference"),
        ("torch", 1, 9, "reference"),
        ("ort", 2, 6, "Good"),
        ("ort", 1, 9, "Good"),
    ]
    for row in results["rows"]:
        assert 0 < row["lt"] <= row["lt_p95"]
        assert row["tp"] == pytest.approx(row["bs"] * row["sl"] / row["lt"] * 1e3)
        assert row["peak_memory_bytes"] >= 0
    assert results["rows"][2]["acc"] == 1
    assert [entry["name"] for entry in results["not_run"]] == ["torch tf32", "ort tf32"]
    assert {"date", "commit", "command", "cpu", "versions"} <= results["machine"].keys()
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for text in (
        "ort fp32 (cpu)",
        report.RULE,
        "tf32: not run: TF32 needs a CUDA GPU",
        "2x6: test",
    ):
        assert text in printed
    page = (tmp_path / "results.md").read_text()
    assert "| 2 | 6 |" in page
    assert "ort tf32: TF32 needs" in page


def test_a_model_without_text_gets_random_tokens(zoo, tmp_path):
    status, results = run_bench(tmp_path, "--model", "mute", "--runner", "torch", "--shape", "2x5")
    assert status == 0
    assert results["input"] == ["2x5: random tokens, no padding"]


@pytest.mark.parametrize("fault", ["wrong", "nan", "raises"])
def test_what_disagrees_is_bad_and_not_timed(fault, fake, zoo, tmp_path, monkeypatch):
    fake(fault)
    monkeypatch.setattr(fake_runner.FakeRunner, "time", lambda *_: pytest.fail("timed"))
    status, results = run_bench(tmp_path, *TINY_AND_FAKE, "--shape", "2x6")
    assert status == 1
    good, bad = results["rows"]
    assert (good["check"], bad["check"]) == ("reference", "Bad")
    assert bad["lt"] is None
    expected = "RuntimeError: out of memory" if fault == "raises" else "not timed"
    assert bad["reason"] == expected


def test_a_run_without_a_runner_keeps_the_last_results(fake, zoo, tmp_path, capsys):
    _, results = run_bench(tmp_path, "--model", "tiny", "--runner", "torch", "--shape", "1x5")
    page = (tmp_path / "results.md").read_bytes()
    fake("unavailable")
    with pytest.raises(UserError, match="none of the runners can run here"):
        run_bench(tmp_path, "--model", "tiny", "--runner", "fake", "--shape", "1x5")
    assert "fake fp32: not run: the fake is not here today" in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (tmp_path / "results.md").read_bytes() == page


def test_what_cannot_run_has_its_reason_and_is_not_bad(fake, zoo, tmp_path, capsys):
    fake("unavailable")
    status, results = run_bench(tmp_path, *TINY_AND_FAKE, "--shape", "1x5")
    assert status == 0
    assert results["not_run"] == [{"name": "fake fp32", "reason": "the fake is not here today"}]
    assert "fake fp32: not run: the fake is not here today" in capsys.readouterr().out


def test_low_precision_is_compared_with_pytorch_in_that_precision(zoo, tiny_build, tmp_path):
    status, results = run_bench(
        tmp_path, "--model", "tiny", "--runner", "torch", "--precision", "bf16", "--shape", "3x9"
    )
    assert status == 0
    assert results["rows"][0]["check"] in ("Good", "yardstick")
    assert results["rows"][0]["a0"] > 0


def test_report_writes_the_same_page_again(zoo, tmp_path):
    run_bench(tmp_path, "--model", "tiny", "--runner", "torch", "--shape", "1x5")
    again = tmp_path / "again"
    report.main(["--results", str(tmp_path / "results.json"), "--output", str(again)])
    assert (again / "results.md").read_text() == (tmp_path / "results.md").read_text()


def test_report_of_something_else_is_one_line(tmp_path):
    with pytest.raises(UserError, match="make bench"):
        report.main(["--results", str(tmp_path / "none.json")])
    for text in ("{}", "[1]", "not json"):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(
            UserError, match=r"results\.json is not (a result of bench|JSON) .*`make bench`"
        ):
            report.main(
                ["--results", str(tmp_path / "results.json"), "--output", str(tmp_path / "o")]
            )
    assert not (tmp_path / "o").exists()
