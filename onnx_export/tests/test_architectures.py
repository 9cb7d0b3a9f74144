"""Every architecture of the registry loads, exports, and gives the same results in ONNX Runtime."""

import pytest
import torch

from onnx_export import export, verify
from train_model.models.architectures import ARCHITECTURES
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.tests.networks import of_architecture


@pytest.fixture(params=ARCHITECTURES, scope="module")
def checkpoint(request, tmp_path_factory):
    model = of_architecture(request.param)
    path = tmp_path_factory.mktemp(request.param) / "checkpoint.pt"
    save_checkpoint(path, model, model.config)
    return path, model


def test_a_checkpoint_loads_as_it_was_saved(checkpoint):
    path, model = checkpoint
    loaded = load_checkpoint(path)
    assert loaded.config == model.config
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[name], value, rtol=0, atol=0)


def test_the_exported_files_are_the_network(checkpoint, capsys):
    path, _ = checkpoint
    onnx_path = path.with_name("model.onnx")
    assert export.main(["--checkpoint", str(path), "--output", str(onnx_path)]) in (0, None)
    assert verify.main(["--checkpoint", str(path), "--onnx", str(onnx_path)]) == 0
    assert "batches agree" in capsys.readouterr().out


def test_one_pass_networks_export_in_two_files_too(checkpoint):
    path, model = checkpoint
    if ARCHITECTURES[model.config.architecture].family != "one-pass":
        pytest.skip("an autoregressive network is always two files")
    given = ["--checkpoint", str(path)]
    onnx_path = path.with_name("halves.onnx")
    assert export.main([*given, "--output", str(onnx_path), "--split"]) in (0, None)
    assert verify.main([*given, "--onnx", str(onnx_path), "--split"]) == 0
