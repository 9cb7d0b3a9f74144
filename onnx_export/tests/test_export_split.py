"""The two files of ``--split``: on a canvas as wide as the translations they compute the network."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from onnx_export import export, split_session, verify_one_pass
from onnx_export.paths import half_path
from onnx_export.tests.tiny import export_tiny
from train_model.cli import UserError
from train_model.models.canvas import initial_canvas
from train_model.models.checkpoint import save_checkpoint
from train_model.models.signatures import SPLIT


def split(exported, *flags):
    arguments = ["--checkpoint", str(exported.checkpoint), "--output", str(exported.onnx)]
    assert export.main([*arguments, "--split", *flags]) == 0
    return verify_one_pass.open_split_session(exported.onnx)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"padding_policy": "upstream", "max_target_positions": 30},
        pytest.param(
            {"encoder_conv_type": "lightweight", "src_embedding_copy": False},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"pred_length_offset": True, "encoder_learned_pos": False}, marks=pytest.mark.slow
        ),
    ],
    ids=lambda changes: ",".join(changes) or "masked",
)
def test_cut_canvas_gives_what_the_whole_one_gives(changes, tmp_path):
    exported = export_tiny(tmp_path, **changes)
    checks = [*verify_one_pass.verify(exported.model, split(exported), more=20)]
    assert [check for check in checks if not check.good] == []


def test_a_thousand_rows_on_canvases_of_any_width(tmp_path, monkeypatch):
    exported = export_tiny(tmp_path)
    with torch.no_grad():  # lengths from 2 to 29 that do not depend on the source
        exported.model.decoder.embed_length.weight[30:] = 0
    save_checkpoint(exported.checkpoint, exported.model, exported.model.config)
    session = split(exported, "--no-fold")
    widths, whole = [], []

    def spy(lengths, width):
        widths.append(width)
        return initial_canvas(lengths, width)

    monkeypatch.setattr(split_session, "initial_canvas", spy)
    generator = torch.Generator().manual_seed(1)
    for length in torch.randint(2, 26, (64,), generator=generator).tolist():
        source = verify_one_pass.random_source(16, length, "right", 90, generator)
        assert verify_one_pass.compare(exported.model, session, source).good
        whole.append(min(2 * length, 50))
    assert all(cut <= full for cut, full in zip(widths, whole, strict=True))
    assert np.mean(np.array(widths) < whole) > 0.5
    assert len(set(widths)) > 5


def test_canvas_on_the_host_is_the_networks(exported):
    lengths = torch.tensor([2, 3, 7, 9])
    for width in (2, 7, 12):
        np.testing.assert_array_equal(
            initial_canvas(lengths.numpy(), width), exported.model.initial_canvas(lengths, width)
        )


def test_the_files_say_what_they_are(tmp_path):
    exported = export_tiny(tmp_path)
    split(exported)
    assert not [*tmp_path.glob("model.onnx.*")]
    for half in SPLIT:
        model = onnx.load(half_path(exported.onnx, half))
        metadata = {item.key: item.value for item in model.metadata_props}
        assert metadata["half"] == half
        assert json.loads(metadata["config"])["padding_policy"] == "masked"
    sizes = {
        item.name: [size.dim_param or size.dim_value for size in item.type.tensor_type.shape.dim]
        for item in (*model.graph.input, *model.graph.output)
    }
    assert sizes["encoded"] == ["batch", "src_len", 24]
    for name in ("canvas", "output_tokens", "output_scores"):
        assert sizes[name] == ["batch", "canvas"]


def test_files_that_are_not_a_pair_of_halves_are_refused(tmp_path, exported):
    with pytest.raises(UserError, match=r"there is no ONNX file .*model\.encoder\.onnx"):
        verify_one_pass.open_split_session(tmp_path / "model.onnx")
    for half in SPLIT:
        half_path(tmp_path / "model.onnx", half).write_bytes(exported.onnx.read_bytes())
    with pytest.raises(UserError, match=r"halves are not those of one network; .*make onnx-split"):
        verify_one_pass.open_split_session(tmp_path / "model.onnx")


def test_an_autoregressive_network_is_always_split(tmp_path):
    checkpoint = Path(export.__file__).parents[1] / "train_model/tests/fixtures/checkpoint_ar.pt"
    arguments = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "model.onnx")]
    with pytest.raises(UserError, match="leave --split out"):
        export.main([*arguments, "--split"])
    assert [*tmp_path.iterdir()] == []
