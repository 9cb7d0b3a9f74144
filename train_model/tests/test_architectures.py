"""The registry of networks: its names exist, and looking up a family needs no package."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from train_model.models import architectures
from train_model.models.architectures import ALIASES, ARCHITECTURES, Architecture
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.tests.networks import of_architecture

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_everything_that_an_entry_names_exists(name):
    entry = ARCHITECTURES[name]
    for field in dataclasses.fields(Architecture):
        place = getattr(entry, field.name)
        if field.name.endswith(("_class", "_function")) and place is not None:
            assert callable(architectures._find(place)), place
    assert architectures._find(entry.config_class).architecture == name


def test_aliases_are_not_names():
    assert not ALIASES.keys() & ARCHITECTURES.keys()
    assert set(ALIASES.values()) <= ARCHITECTURES.keys()


def test_the_registry_is_read_without_a_package():
    script = "from train_model.models.architectures import ARCHITECTURES as a; print(*a)"
    command = [sys.executable, "-S", "-c", script]
    reply = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert reply.stdout.split() == [*ARCHITECTURES], reply.stderr


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_checkpoint_loads_as_it_was_saved(name, tmp_path):
    model = of_architecture(name)
    save_checkpoint(tmp_path / "checkpoint.pt", model, model.config)
    loaded = load_checkpoint(tmp_path / "checkpoint.pt")
    assert loaded.config == model.config
    for key, value in model.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[key], value, rtol=0, atol=0)
