"""Searches at a forced length: every system gives it, and the results are written."""

import json

import numpy as np
import pytest

from train_model.cli import UserError
from train_model.models.hypotheses import Found
from trt_code.measure import forced_length

SMALL = ("--sentences", "3", "--rounds", "1", "--batch", "2", "--beam", "1,2", "--target", "3")


def test_every_system_has_a_row(tmp_path, capsys, monkeypatch):
    def without_modelopt(model):
        raise UserError("nvidia-modelopt cannot be imported")

    monkeypatch.setattr(forced_length, "in_int8", without_modelopt)
    folders = ("--build-dir", str(tmp_path), "--output", str(tmp_path))
    assert forced_length.main([*SMALL, "--one-pass", "demo", *folders]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    rows = {(row["name"], row["beam"]) for row in results["rows"]}
    assert {("native FP32, demo-ar", 1), ("native FP32, Transformer", 2)} <= rows
    assert ("native FP32, one pass", 1) in rows
    assert ("native FP32, one pass", 2) not in rows
    assert all(row["sentences_per_s"] > 0 for row in results["rows"])
    shown = capsys.readouterr().out
    assert "native INT8, demo-ar: not run: nvidia-modelopt" in shown
    assert "| native FP32, demo-ar | 1 | 2 |" in (tmp_path / "results.md").read_text()


def test_another_length_is_an_error():
    lengths = np.array([[4], [5]])
    found = Found(*(np.zeros((2, 1)) for _ in range(3)), lengths, np.zeros((2, 1)))
    forced_length.Options(3).check(Found(*(np.zeros((1, 1)),) * 3, lengths[:1], np.zeros((1, 1))))
    with pytest.raises(UserError, match="does not have the forced length"):
        forced_length.Options(3).check(found)


def test_an_autoregressive_model_does_not_translate_in_one_pass(tmp_path):
    with pytest.raises(UserError, match="demo-ar is not a one-pass network"):
        forced_length.main(["--one-pass", "demo-ar", "--output", str(tmp_path)])


def test_a_one_pass_model_has_no_search(tmp_path):
    with pytest.raises(UserError, match="demo is not autoregressive"):
        forced_length.main(["--model", "demo", "--output", str(tmp_path)])
    assert not list(tmp_path.iterdir())
