"""Weights stored as INT8 rows: their error, and loading them."""

import pytest
import torch
import yaml

from train_model import compact
from train_model.cli import UserError
from train_model.models.checkpoint import load_checkpoint
from train_model.models.int8_rows import SCALE, pack_rows, unpack_rows
from train_model.models.safetensors_file import read_safetensors

DEMO = "data_model/demo/checkpoint.pt"


def test_rows_are_within_half_a_step_of_their_scale():
    torch.manual_seed(0)
    rows = torch.randn(64, 128) * torch.logspace(-6, 2, 64)[:, None]
    rows[3] = 0
    packed, aliases = pack_rows({"a": rows, "bias": rows[5], "count": torch.tensor([3])})
    assert packed["a"].dtype == torch.int8
    assert not aliases
    unpacked = unpack_rows(packed)
    assert ((unpacked["a"] - rows).abs() <= 0.501 * packed["a" + SCALE]).all()
    assert torch.equal(unpacked["bias"], rows[5].half())
    assert torch.equal(unpacked["count"], torch.tensor([3]))


@pytest.mark.parametrize("damage", [{}, {"a": torch.zeros(3, 2, dtype=torch.int8)}])
def test_scales_need_a_matrix_with_one_row_per_scale(damage):
    with pytest.raises(ValueError, match="no matrix of as many rows"):
        unpack_rows({"a" + SCALE: torch.ones(2, 1), **damage})


def test_a_network_is_loaded_from_a_quarter_of_its_bytes(tmp_path):
    original = load_checkpoint(DEMO)
    options = compact.compact(DEMO, tmp_path / "model.safetensors")
    content = {"architecture": original.kind, "checkpoint": "model.safetensors", "options": options}
    content["padding_policy"] = original.config.padding_policy
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(content))
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    assert loaded.kind == original.kind
    state = loaded.model.state_dict()
    for name, value in original.model.state_dict().items():
        error = (state[name].double() - value.double()).norm()
        assert error <= 0.02 * value.double().norm(), name
    weights = sum(parameter.numel() for parameter in original.model.parameters())
    assert (tmp_path / "model.safetensors").stat().st_size < 1.15 * weights
    source = torch.tensor([[0, 7, 9, 12, 2]])
    assert torch.equal(loaded.model(source)[0], original.model(source)[0])


def test_shared_memory_is_stored_once(tmp_path):
    compact.compact(DEMO, tmp_path / "m.safetensors")
    (tmp_path / "model.yaml").write_text("architecture: conv_crf_transformer\noptions: {}\n")
    weights = read_safetensors(tmp_path / "m.safetensors").weights
    assert torch.equal(
        weights["encoder.embed_tokens.weight"], weights["decoder.embed_tokens.weight"]
    )


def test_compact_refuses_another_suffix(tmp_path):
    with pytest.raises(UserError, match=r"has to end in \.safetensors"):
        compact.compact(DEMO, tmp_path / "model.pt")
