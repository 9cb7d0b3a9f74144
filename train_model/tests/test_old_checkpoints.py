"""Checkpoints of older fairseq versions load for every architecture; unsupported options are one line."""

import argparse
import re
from pathlib import Path

import pytest
import torch

from train_model import fairseq_compat
from train_model.cli import UserError
from train_model.models.architectures import ARCHITECTURES, _find
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.tests.fairseq_models import KERNELS, PRE_NORM, fairseq_model
from train_model.tests.networks import of_architecture

Weights = dict[str, torch.Tensor]


def aged(weights: Weights) -> Weights:
    """Return a state dict as older versions wrote it.

    One matrix for the three projections of an attention; a table of sinusoidal positions instead of
    ``_float_tensor``; no ``version``; no copy of a shared or separate output projection.
    """
    old = {}
    for name, value in weights.items():
        stem, _, last = name.rpartition(".")
        if ".q_proj." in name:
            parts = [weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            if parts[0].shape == parts[1].shape:
                old[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
                continue
        if re.search(r"\.[kv]_proj\.", name):
            query = weights[re.sub("[kv]_proj", "q_proj", name)]
            if query.shape == value.shape:
                continue
        if last == "_float_tensor":
            old[f"{stem}.weights"] = torch.randn(9, 8)
        elif last != "version":
            old[name] = value
    return old


def write(path: Path, weights: Weights, options: argparse.Namespace, prefix: str) -> Path:
    named = {f"{prefix}{name}": value for name, value in weights.items()}
    torch.save({"args": options, "model": named}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_old_state_dict_is_the_same_network(architecture, prefix, tmp_path):
    model = of_architecture(architecture)
    old = aged(model.state_dict())
    assert any("in_proj_weight" in name for name in old)
    assert not any(name.endswith(("_float_tensor", "version", "k_proj.bias")) for name in old)
    path = write(tmp_path / "old.pt", old, model.config.to_args(), prefix)
    loaded = load_checkpoint(path).model.state_dict()
    for name, value in model.state_dict().items():
        if not name.endswith(("_float_tensor", "version")):
            torch.testing.assert_close(loaded[name], value, rtol=0, atol=0)


FAIRSEQS = {  # fairseq's lightconv does not upgrade state dicts
    "cmlm_transformer": {"share_all_embeddings": True},
    "iterative_nonautoregressive_transformer": {},
    "nacrf_transformer": {"crf_lowrank_approx": 4, "crf_beam_approx": 6},
    "nonautoregressive_transformer": PRE_NORM,
    "transformer": {"share_decoder_input_output_embed": True},
}


@pytest.mark.fairseq
@pytest.mark.parametrize("architecture", FAIRSEQS)
@torch.inference_mode()
def test_fairseq_reads_the_old_state_dict_as_well(architecture, tmp_path):
    """So the aged form is one that fairseq upgrades, and both read the same weights from it."""
    fairseq_compat.prepare()
    changes = FAIRSEQS[architecture]
    theirs, args, _ = fairseq_model(architecture, changes)
    old = aged(theirs.state_dict())
    if changes.get("share_decoder_input_output_embed"):  # stored since version 0.10
        del old["decoder.output_projection.weight"]
    path = write(tmp_path / "old.pt", old, args, "module.")
    theirs.load_state_dict(old, strict=True)
    ours = load_checkpoint(path).model.state_dict()
    found = {
        name: value
        for name, value in theirs.state_dict().items()
        if name in ours and not name.endswith(("_float_tensor", "version"))
    }
    assert len(found) > 20
    for name, value in found.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0)


def _unsupported() -> list[tuple[str, str, object]]:
    """Every option that an architecture refuses, with a value that it refuses."""
    return [
        (name, option, _other(only))
        for name, entry in ARCHITECTURES.items()
        for option, only in _find(entry.config_class).fixed.items()
    ]


def _other(value: object) -> object:
    if isinstance(value, bool):
        return not value
    return {"relu": "gelu", 0: 1}.get(value, "10,20") if value is not None else "10,20"


@pytest.mark.parametrize(("architecture", "option", "value"), _unsupported())
def test_an_unsupported_option_is_one_line(architecture, option, value, tmp_path):
    model = of_architecture(architecture)
    options = argparse.Namespace(**vars(model.config.to_args()) | {option: value})
    path = write(tmp_path / "checkpoint.pt", {**model.state_dict()}, options, "")
    with pytest.raises(UserError, match=re.escape(f"{option}={value!r} is not supported")) as error:
        load_checkpoint(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("architecture", ["lightconv", "transformer", "cmlm_transformer"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"activation_fn": "relu_squared"}, "activation_fn is one of relu, gelu"),
        ({"decoder_input_dim": 16}, "decoder_input_dim must be equal to decoder_embed_dim"),
        ({"decoder_attention_heads": 5}, "32 channels do not divide into 5 heads"),
    ],
)
def test_options_of_the_decoder_that_do_not_fit_are_one_line(
    architecture, options, words, tmp_path
):
    model = of_architecture(architecture)
    args = argparse.Namespace(**vars(model.config.to_args()) | options)
    path = write(tmp_path / "checkpoint.pt", {**model.state_dict()}, args, "")
    with pytest.raises(UserError, match=words):
        load_checkpoint(path)


@pytest.mark.fairseq
@pytest.mark.parametrize("architecture", ["lightconv", "transformer"])
def test_an_adaptive_softmax_of_fairseq_is_refused(architecture, tmp_path):
    """A checkpoint that fairseq made with it."""
    fairseq_compat.prepare()
    changes = KERNELS | {"adaptive_softmax_cutoff": "12,24", "adaptive_softmax_dropout": 0.0}
    changes |= {"adaptive_softmax_factor": 4, "tie_adaptive_weights": False}
    theirs, args, _ = fairseq_model(architecture, changes | {"tie_adaptive_proj": False})
    assert any("adaptive_softmax" in name for name in theirs.state_dict())
    path = write(tmp_path / "checkpoint.pt", theirs.state_dict(), args, "")
    with pytest.raises(UserError, match="adaptive_softmax_cutoff='12,24' is not supported"):
        load_checkpoint(path)


def test_fairseqs_own_values_are_taken(tmp_path):
    """Values that change nothing, as fairseq writes them."""
    model = of_architecture("transformer")
    neutral = {"adaptive_softmax_cutoff": None, "quant_noise_scalar": 0.0, "base_layers": 0}
    args = argparse.Namespace(**vars(model.config.to_args()) | neutral)
    path = write(tmp_path / "checkpoint.pt", {**model.state_dict()}, args, "")
    assert load_checkpoint(path).config == model.config
    save_checkpoint(tmp_path / "again.pt", model, model.config)
