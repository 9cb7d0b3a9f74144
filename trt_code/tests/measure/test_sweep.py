"""The sweep: its order, limits and files, and that a bad block does not stop the others."""

import json

import pytest

from train_model.cli import UserError
from trt_code.measure import sweep
from trt_code.runners import RUNNERS
from trt_code.tests.runners import fake_runner


@pytest.fixture(autouse=True)
def tiny(monkeypatch, zoo, tiny_files):
    monkeypatch.setattr("trt_code.measure.sweep.find_model", lambda name, build_dir: tiny_files)
    monkeypatch.setitem(RUNNERS, "fake", fake_runner.SPECS)


def run_sweep(folder, *flags: str) -> tuple[int, dict]:
    base = ["--device", "cpu", "--repeats", "1", "--seconds", "0", "--output", str(folder)]
    sizes = ["--batches", "1,2", "--lengths", "8,12", "--compiled-shapes", "1x8"]
    status = sweep.main([*base, *sizes, *flags])
    return status, json.loads((folder / "results.json").read_text())


def test_every_block_over_the_grid(tmp_path):
    status, results = run_sweep(tmp_path, "--blocks", "torch:fp32,torch:tf32,torch:bf16")
    assert status == 0
    rows = [(row["precision"], row["bs"], row["sl"]) for row in results["rows"]]
    grid = [(1, 8), (1, 12), (2, 8), (2, 12)]
    assert rows == [(name, *shape) for name in ("fp32", "bf16") for shape in grid]
    assert all(row["lt"] and row["first_ms"] and row["make_ms"] for row in results["rows"])
    assert [entry["name"] for entry in results["not_run"]] == ["torch tf32"]
    for name in ("latency.png", "throughput.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "torch bf16" in (tmp_path / "results.md").read_text()


def test_a_block_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(fake_runner, "create", lambda *_, **__: 1 / 0)
    status, results = run_sweep(tmp_path, "--blocks", "fake:fp32,torch:fp32")
    assert status == 0
    assert results["not_run"] == [
        {"name": "fake fp32", "reason": "ZeroDivisionError: division by zero"}
    ]
    assert len(results["rows"]) == 4


def test_a_wrong_result_is_bad_and_not_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(fake_runner, "fault", "wrong")
    status, results = run_sweep(tmp_path, "--blocks", "fake:fp32")
    assert status == 1
    assert {(row["check"], row["lt"]) for row in results["rows"]} == {("Bad", None)}


def test_blocks_that_the_time_did_not_reach_are_named(tmp_path):
    _, results = run_sweep(tmp_path, "--blocks", "torch:fp32", "--block-seconds", "0")
    assert [(row["bs"], row["sl"]) for row in results["rows"]] == [(1, 8)]
    assert results["not_run"] == [
        {"name": "torch fp32", "reason": "the time was over before 1x12, 2x8, 2x12"}
    ]


def test_a_sweep_that_measures_nothing_keeps_the_last_results(tmp_path, capsys):
    _, results = run_sweep(tmp_path, "--blocks", "torch:fp32", "--block-seconds", "0")
    with pytest.raises(UserError, match="nothing was measured"):
        run_sweep(tmp_path, "--blocks", "torch:fp32", "--deadline", "0")
    assert "the time was over (--deadline)" in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text()) == results
