"""Latency of single sentences: a row for each runner and number of callers."""

import json

import pytest

from train_model.cli import UserError
from trt_code.measure import single_sentences
from trt_code.text.api import Translator


def test_every_runner_and_number_of_callers_has_a_row(tmp_path):
    arguments = ["--runner", "native,torch", "--limit", "3", "--callers", "1,2", "--model", "demo"]
    folders = ["--build-dir", str(tmp_path), "--output", str(tmp_path)]
    assert single_sentences.main([*arguments, *folders]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(row["runner"], row["callers"]) for row in rows] == [
        *(("native fp32", callers) for callers in (1, 2)),
        *(("torch fp32", callers) for callers in (1, 2)),
    ]
    assert all(0 < row["p50"] <= row["p99"] for row in rows)


def test_other_translations_are_not_timed(tmp_path, monkeypatch):
    translate = Translator.translate

    def other(self, lines):
        return [line + self.runner for line in translate(self, lines)]

    monkeypatch.setattr(Translator, "translate", other)
    arguments = ["--runner", "native,torch", "--limit", "2", "--model", "demo"]
    with pytest.raises(UserError, match="only 0% of the translations of torch are those of native"):
        single_sentences.main([*arguments, "--build-dir", str(tmp_path), "--output", str(tmp_path)])
