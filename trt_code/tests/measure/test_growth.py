"""The growth of a batch's time: its points, networks of other widths, and systems with different results."""

import json

import numpy as np
import pytest
import torch

from train_model.cli import UserError
from train_model.tests.networks import network, small
from trt_code.measure import growth

SMALL = ("--batch", "1", "--length", "4", "--width", "64", "--threads", "1", "--repeats", "1")


def test_every_point_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(growth, "processors", lambda: 1)
    monkeypatch.setattr(growth, "in_int8", lambda model: model)  # needs nvidia-modelopt
    growth.main([*SMALL, "--model", "demo", "--output", str(tmp_path)])
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    points = [(row["axis"], row["value"]) for row in rows]
    assert points == [("batch", 1), ("length", 4), ("width", 64), ("threads", 1)]
    assert all(row["native"] > 0 and row["torch"] > 0 and row["int8"] > 0 for row in rows)
    assert "| demo | width | 64 |" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "PyTorch, ms" in capsys.readouterr().out


def test_a_machine_without_modelopt_measures_the_rest(tmp_path, monkeypatch):
    def refused(model):
        raise UserError("nvidia-modelopt is not installed")

    monkeypatch.setattr(growth, "processors", lambda: 1)
    monkeypatch.setattr(growth, "in_int8", refused)
    growth.main([*SMALL, "--model", "demo", "--output", str(tmp_path)])
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert all(row["int8"] is None and row["native"] > 0 for row in rows)
    assert " - |" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize("model", [network("dynamic"), small()], ids=["search", "one pass"])
def test_networks_of_another_width(model):
    config = model.config
    wider = growth.resized(config, 2 * config.encoder_embed_dim)
    assert wider.encoder_embed_dim == 2 * config.encoder_embed_dim
    assert wider.encoder_ffn_embed_dim == 2 * config.encoder_ffn_embed_dim
    assert wider.encoder_layers == config.encoder_layers
    weights = (sum(p.numel() for p in type(model)(c).parameters()) for c in (wider, config))
    assert next(weights) > 2 * next(weights)


def test_systems_that_differ_are_not_timed():
    threads = torch.get_num_threads()
    answers = {"native": lambda sources, _: sources, "torch": lambda sources, _: sources + 1}
    with pytest.raises(UserError, match="differ"):
        growth.time_each(answers, np.ones((2, 3), np.int64), threads, 1)
