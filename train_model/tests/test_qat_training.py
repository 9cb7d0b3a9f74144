"""Quantisation-aware fine-tuning through fairseq on a small corpus: start, go on, repeat, refuse."""

import dataclasses
from pathlib import Path

import pytest
import torch

from onnx_export import export
from onnx_export.session import open_session
from train_model import recipe, train
from train_model.cli import UserError
from train_model.models.beam_search import beam_search
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.models.hypotheses import SearchOptions
from train_model.models.incremental import IncrementalDecoder
from train_model.models.multibranch_config import MultibranchConfig
from train_model.models.quantized import QuantizedLinear
from train_model.models.transformer_multibranch_v2 import TransformerMultibranch
from train_model.quantization import ptq
from train_model.tests.small_training import SMALL
from trt_code.measure import layer_precision

pytestmark = pytest.mark.fairseq
FIXTURES = Path(__file__).parent / "fixtures"
AR_BRANCHES = ("attn:1:8:2", "dynamic:default:8:2")
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


def test_a_fine_tuning_of_older_weights_does_not_go_on(calibrated, tmp_path):
    """Its checkpoint would record the newer weights."""
    loaded, start = load_checkpoint(calibrated), tmp_path / "demo-ptq" / "checkpoint.pt"
    (tmp_path / "data").symlink_to(calibrated.parents[1] / "data")
    for digest in ("0" * 64, "1" * 64):
        config = dataclasses.replace(loaded.config, made_from=[digest])
        save_checkpoint(start, loaded.model, config)
        if digest[0] == "0":
            assert tune(start, tmp_path, 2).config.made_from == config.made_from
    with pytest.raises(UserError, match=r"train holds a fine-tuning of other weights .*remove it"):
        tune(start, tmp_path, 4)


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


def test_an_autoregressive_network_is_tuned_and_searches(calibrated, tmp_path):
    """en-de-ar-qat on a small network, with another corpus."""
    words = load_checkpoint(calibrated).config.src_vocab
    torch.manual_seed(0)
    config = MultibranchConfig(
        *(words, words),
        **dict.fromkeys(("encoder_branch_type", "decoder_branch_type"), AR_BRANCHES),
        **dict.fromkeys(("encoder_embed_dim", "encoder_ffn_embed_dim"), 16),
        **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
        **dict.fromkeys(("encoder_kernel_size_list", "decoder_kernel_size_list"), (3,)),
        decoder_attention_heads=2,
        conv_linear=True,
        share_all_embeddings=True,
        padding_policy="masked",
    )
    plain = TransformerMultibranch(config).eval()
    start = ptq.quantize(plain, ["*.fc2"], [torch.randint(4, words, (8, 12))])
    path = tmp_path / "start.pt"
    save_checkpoint(path, start, start.config)
    (tmp_path / "data").symlink_to(calibrated.parents[1] / "data")
    options = [*SHORT, f"start_from={path}", "max_update=2", "batch_size=null", "max_tokens=200"]
    options += ["validate_interval_updates=2", "save_interval_updates=2"]
    chosen = dataclasses.replace(recipe.load("en-de-ar-qat", options), corpus="demo")
    tuned = load_checkpoint(train.train(chosen, tmp_path))
    assert tuned.config.int8_layers == start.config.int8_layers
    assert (tuned.config.dropout, tuned.config.encoder_embed_dim) == (0.2, 16)
    before, after = start.state_dict(), tuned.model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert not any("_amax" in name for name in moved)
    assert {f"{name}.weight" for name in tuned.config.int8_layers} <= moved
    assert isinstance(tuned.model.decoder.output_projection, QuantizedLinear)
    source = torch.randint(4, words, (2, 7))
    options = SearchOptions(beam=1)
    assert len(beam_search(IncrementalDecoder.of(tuned.model), source, options)) == 2


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (FIXTURES / "checkpoint_nat.pt", "start from a network of this corpus"),
        (FIXTURES / "checkpoint_ar.pt", "not the network of --arch"),
        ("nowhere.pt", "there is no checkpoint nowhere.pt"),
    ],
)
def test_what_cannot_be_tuned_is_refused(start, message, build_dir):
    options = [*SHORT, f"start_from={start}", "max_update=1"]
    with pytest.raises(UserError, match=message):
        train.train(recipe.load("demo-qat", options), build_dir)
