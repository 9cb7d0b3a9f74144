"""Quantisation-aware fine-tuning through fairseq on a small corpus: start, go on, repeat, refuse."""

import dataclasses
from pathlib import Path

import pytest
import torch

from onnx_export import export
from onnx_export.session import open_session
from train_model import recipe, train
from train_model.cli import UserError
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.quantization import ptq
from train_model.tests.small_training import SMALL
from trt_code.measure import layer_precision

pytestmark = pytest.mark.fairseq
FIXTURES = Path(__file__).parent / "fixtures"
SHORT = ["batch_size=16", "num_workers=0", "warmup_updates=2", "cpu=true", "lr=1e-3"]


@pytest.fixture(scope="module")
def calibrated(build_dir):
    """A network for the corpus, trained for a few updates and calibrated on random sentences."""
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed (make env)")
    trained = load_checkpoint(train.train(recipe.load("demo", [*SMALL, "max_update=2"]), build_dir))
    generator = torch.Generator().manual_seed(1)
    batches = [
        torch.randint(4, trained.config.src_vocab, (8, 12), generator=generator) for _ in range(3)
    ]
    model = ptq.quantize(trained.model, ["*.fc2"], batches)
    path = build_dir / "demo-ptq" / "checkpoint.pt"
    save_checkpoint(path, model, model.config)
    return path


def tune(calibrated, folder, updates: int):
    prepared = folder / "data"
    if not prepared.exists():
        folder.mkdir(exist_ok=True)
        prepared.symlink_to(calibrated.parents[1] / "data")
    options = [*SHORT, f"start_from={calibrated}", f"max_update={updates}"]
    return load_checkpoint(train.train(recipe.load("demo-qat", options), folder))


def test_fine_tuning_starts_continues_and_repeats(calibrated, tmp_path, capsys):
    before = load_checkpoint(calibrated)
    first = tune(calibrated, tmp_path / "a", 2)
    assert first.config == before.config
    assert "encoder.layers.0.fc1" in first.config.int8_layers
    assert "encoder.layers.0.fc2" not in first.config.int8_layers
    again = tune(calibrated, tmp_path / "b", 2)
    moved = set()
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
        if not torch.equal(value, before.model.state_dict()[name]):
            moved.add(name)
    assert not any("_amax" in name for name in moved)
    assert {f"{name}.weight" for name in first.config.int8_layers} <= moved
    capsys.readouterr()
    longer = tune(calibrated, tmp_path / "a", 4)
    assert "going on from" in capsys.readouterr().out
    name = "encoder.layers.0.fc1.weight"
    assert not torch.equal(longer.model.state_dict()[name], first.model.state_dict()[name])


def test_the_recipe_of_the_public_checkpoint_trains_and_its_network_runs(calibrated, tmp_path):
    """wmt16-qat with another corpus, from the checkpoint to integers in ONNX Runtime."""
    (tmp_path / "data").symlink_to(calibrated.parents[1] / "data")
    changes = {
        "cpu": True,
        "start_from": calibrated,
        "max_update": 3,
        "validate_interval_updates": 3,
        "num_workers": 0,
        "max_tokens": 400,
    }
    chosen = recipe.load("wmt16-qat", [f"{key}={value}" for key, value in changes.items()])
    tuned = train.train(dataclasses.replace(chosen, corpus="demo"), tmp_path)
    model = load_checkpoint(tuned).model
    path = tmp_path / "model.qdq.onnx"
    export.main(["--checkpoint", str(tuned), "--output", str(path)])
    products = layer_precision.of_session(path)
    assert sum(product.precision == "INT8" for product in products) > 10
    assert {p.precision for p in products if "fc2" in p.name} == {"FP32"}  # it was kept
    session = open_session(path)
    source = torch.randint(4, model.config.src_vocab, (4, 9))
    with torch.inference_mode():
        expected = model(source)[0].numpy()
    got = session.run(["output_tokens"], {"src_tokens": source.numpy()})[0]
    assert (got == expected).mean() > 0.9


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (FIXTURES / "checkpoint_nat.pt", "start from a network of this corpus"),
        (FIXTURES / "checkpoint_ar.pt", "which does not train here"),
        ("nowhere.pt", "there is no checkpoint nowhere.pt"),
    ],
)
def test_what_cannot_be_tuned_is_refused(start, message, build_dir):
    options = [*SHORT, f"start_from={start}", "max_update=1"]
    with pytest.raises(UserError, match=message):
        train.train(recipe.load("demo-qat", options), build_dir)
