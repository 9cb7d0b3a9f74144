"""Checkpoints of both of fairseq's forms load; damaged, foreign and hostile ones are refused."""

import argparse
import os
import pickle
import resource
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train_model.cli import UserError
from train_model.model_folder import find_model
from train_model.models.checkpoint import load_checkpoint, save_checkpoint

CHECKPOINT = Path(__file__).parent / "fixtures" / "checkpoint_nat.pt"


@pytest.fixture(scope="module")
def loaded():
    return load_checkpoint(CHECKPOINT)


@pytest.fixture
def saved(loaded, tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, loaded.model, loaded.config)
    return path


def change(path, **changes):
    checkpoint = torch.load(path, weights_only=False)
    torch.save(checkpoint | changes, path)


def test_the_trainers_own_form_gives_its_options(loaded):
    assert loaded.kind == "conv_crf_transformer"
    assert loaded.config.encoder_kernel_size_list == (3, 5, 5, 7, 15, 15)
    assert loaded.config.padding_policy == "upstream"
    assert not loaded.model.training


def test_saving_and_loading_gives_the_same_network(loaded, saved):
    again = load_checkpoint(saved)
    assert again.config == loaded.config
    for name, value in loaded.model.state_dict().items():
        assert again.model.state_dict()[name].equal(value), name


def test_half_precision_storage_loads_as_fp32(loaded, tmp_path):
    path = tmp_path / "half.pt"
    save_checkpoint(path, loaded.model, loaded.config, torch.float16)
    assert path.stat().st_size < 0.6 * CHECKPOINT.stat().st_size
    again = load_checkpoint(path).model
    assert {p.dtype for p in again.parameters()} == {torch.float32}


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "none.pt")


def test_missing_unknown_and_misshapen_weights_are_named(saved, loaded):
    weights = dict(loaded.model.state_dict())
    bias = weights.pop("encoder.layers.0.fc1.bias")
    change(saved, model=weights)
    with pytest.raises(UserError, match=r"lacks weights encoder\.layers\.0\.fc1\.bias"):
        load_checkpoint(saved)
    weights |= {"encoder.layers.0.fc1.bias": bias, "encoder.extra": bias}
    change(saved, model=weights)
    with pytest.raises(UserError, match=r"unknown weights encoder\.extra"):
        load_checkpoint(saved)
    del weights["encoder.extra"]
    weights["encoder.layers.0.fc1.bias"] = bias[:-1]
    change(saved, model=weights)
    with pytest.raises(UserError, match=r"fc1\.bias is \(127,\), its options ask for \(128,\)"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model": None}, "no weights"),
        ({"args": None}, "no options"),
        ({"args": argparse.Namespace(arch="fconv")}, "architecture 'fconv'"),
        (
            {"args": argparse.Namespace(arch="conv_crf_transformer", encoder_layers=3)},
            "lacks weights",
        ),
        ({"model": {}}, "lacks the weights"),
    ],
)
def test_foreign_checkpoints_are_refused(saved, changes, word):
    change(saved, **changes)
    with pytest.raises(UserError, match=word):
        load_checkpoint(saved)


class Hostile:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (self.witness,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not_run(saved, tmp_path, protocol):
    witness = tmp_path / "witness"
    checkpoint = {"args": argparse.Namespace(), "model": Hostile(str(witness))}
    torch.save(checkpoint, saved, pickle_protocol=protocol)
    with pytest.raises(UserError):
        load_checkpoint(saved)
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickle.dumps(checkpoint, protocol))
    with pytest.raises(UserError):
        load_checkpoint(plain)
    assert not witness.exists()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_give_one_line_or_load(tmp_path_factory, data):
    content = bytearray(CHECKPOINT.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    for _ in range(data.draw(st.integers(1, 8))):
        # most of the damage is in the pickle or the archive's directory, not in the weights
        if content:
            place = data.draw(st.sampled_from([0, len(content) // 2, max(0, len(content) - 60000)]))
            place = min(len(content) - 1, place + data.draw(st.integers(0, 60000)))
            content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "checkpoint.pt"
    path.write_bytes(content)
    try:
        load_checkpoint(path)
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017 - loading is also a valid result


def test_an_unknown_architecture_is_reported_with_the_known_names(tmp_path):
    with pytest.raises(UserError, match=r"demo, demo-ar, .*wmt16 or wmt16-random"):
        find_model("wmt17", tmp_path)


def test_a_full_disk_is_reported(loaded, tmp_path):
    """A limit on the size of files makes writes fail as a full disk does."""
    path = tmp_path / "checkpoint.pt"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*checkpoint\.pt; is there room"):
            save_checkpoint(path, loaded.model, loaded.config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_saving_leaves_no_half_file(loaded, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    path.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(UserError, match="No space left"):
        save_checkpoint(path, loaded.model, loaded.config)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["checkpoint.pt"]
