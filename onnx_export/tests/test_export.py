"""The exported file: its content, its agreement with the network, and refusals of bad input."""

import collections
import dataclasses
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from onnx_export import export, onnx_file, verify, verify_one_pass
from onnx_export.graph import _quiet
from onnx_export.tests.tiny import TINY, export_tiny
from train_model.cli import UserError
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.models.conv_crf_transformer import ConvCrfTransformer
from train_model.models.dynamic_crf import DynamicCRF, unsure_scores


def assert_agrees(model, path):
    checks = [*verify_one_pass.verify(model, verify_one_pass.open_session(path))]
    assert len(checks) > 30
    assert [check for check in checks if not check.good] == []


def test_file_computes_the_network(exported):
    assert_agrees(exported.model, exported.onnx)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {
            "padding_policy": "upstream",
            "encoder_normalize_before": True,
            "decoder_normalize_before": True,
            "pred_length_offset": True,
        },
        {
            "encoder_conv_type": "lightweight",
            "encoder_learned_pos": False,
            "weight_softmax": False,
            "src_embedding_copy": False,
        },
        {
            "conv_linear": False,
            "encoder_glu": False,
            "decoder_glu": False,
            "tgt_vocab": 90,
            "share_all_embeddings": True,
            "max_target_positions": 100,
        },
    ],
    ids=lambda changes: ",".join(changes),
)
def test_every_option_exports(changes, tmp_path):
    exported = export_tiny(tmp_path, **changes)
    session = verify_one_pass.open_session(exported.onnx)
    generator = torch.Generator().manual_seed(0)
    for batch, length in [(1, 1), (3, 7), (2, 40)]:
        source = verify_one_pass.random_source(batch, length, "right", 90, generator)
        assert verify_one_pass.compare(exported.model, session, source).good


def test_the_originals_own_checkpoint(tmp_path):
    fixtures = Path(export.__file__).parents[1] / "train_model" / "tests" / "fixtures"
    path = tmp_path / "model.onnx"
    export.main(["--checkpoint", str(fixtures / "checkpoint_nat.pt"), "--output", str(path)])
    session = verify_one_pass.open_session(path)
    reference = np.load(fixtures / "nat_io.npz")
    for batch in ("b0", "b1"):
        tokens, scores = session.run(None, {"src_tokens": reference[f"{batch}.src_tokens"]})
        stable = reference[f"{batch}.tokens_stable_1e3"]
        np.testing.assert_array_equal(tokens[stable], reference[f"{batch}.nat_tokens"][stable])
        np.testing.assert_allclose(
            scores[stable], reference[f"{batch}.nat_scores"][stable], atol=2e-4
        )


def test_graph_has_one_node_per_operator_and_readable_names(exported):
    model = onnx.load(exported.onnx)
    count = collections.Counter(node.op_type for node in model.graph.node)
    layers = TINY.encoder_layers + TINY.decoder_layers
    assert count["LiteDynamicConv"] == layers
    assert count["LiteCrfDecode"] == 1
    assert count["LayerNormalization"] == 2 * TINY.encoder_layers + 3 * TINY.decoder_layers
    # in this order, so that two exports are equal to the byte
    assert [function.name for function in model.functions] == ["LiteCrfDecode", "LiteDynamicConv"]
    names = {node.name for node in model.graph.node}
    assert len(names) == len(model.graph.node)
    assert "decoder.layers.1.conv/LiteDynamicConv" in names
    assert "encoder.layers.0.fc1.weight" in {item.name for item in model.graph.initializer}
    # the exporter's notes would name files of the exporting machine
    assert str(Path(export.__file__).parents[1]).encode() not in exported.onnx.read_bytes()


def test_inputs_outputs_and_metadata(exported):
    model = onnx.load(exported.onnx)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [20]
    types = {}
    for item in (*model.graph.input, *model.graph.output):
        dims = [dim.dim_param for dim in item.type.tensor_type.shape.dim]
        types[item.name] = (item.type.tensor_type.elem_type, dims)
    assert types == {
        "src_tokens": (onnx.TensorProto.INT64, ["batch", "src_len"]),
        "output_tokens": (onnx.TensorProto.INT64, ["batch", "canvas"]),
        "output_scores": (onnx.TensorProto.FLOAT, ["batch", "canvas"]),
    }
    metadata = {item.key: item.value for item in model.metadata_props}
    assert metadata["padding_policy"] == "masked"
    assert metadata["max_source_positions"] == "40"
    assert metadata["left_pad_source"] == "true"
    assert json.loads(metadata["special_ids"]) == {"bos": 0, "pad": 1, "eos": 2, "unk": 3}
    assert json.loads(metadata["config"])["encoder_kernel_size_list"] == [3, 6]


def test_two_exports_are_the_same_file(exported, tmp_path):
    again = tmp_path / "model.onnx"
    export.main(["--checkpoint", str(exported.checkpoint), "--output", str(again)])
    assert again.read_bytes() == exported.onnx.read_bytes()


def test_weights_beyond_one_file_go_next_to_it(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_ABOVE", 1000)
    path = tmp_path / "model.onnx"
    onnx_file.save_onnx(ir.load(exported.onnx), path)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    source = verify_one_pass.random_source(2, 5, "right", 90, torch.Generator().manual_seed(0))
    assert verify_one_pass.compare(exported.model, verify_one_pass.open_session(path), source).good
    assert len(onnx_file.load_onnx(path).graph.initializer) > 50
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(UserError, match="weights"):
        onnx_file.load_onnx(path)


def test_verify_detects_other_weights(exported, tmp_path, capsys):
    model = onnx.load(exported.onnx)
    for item in model.graph.initializer:
        if item.name == "decoder.layers.1.fc1.bias":
            item.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(item) + 0.5, item.name)
            )
    changed = tmp_path / "changed.onnx"
    onnx.save(model, changed)
    arguments = ["--checkpoint", str(exported.checkpoint), "--onnx"]
    assert verify.main([*arguments, str(changed)]) == 1
    assert "BAD" in capsys.readouterr().out
    assert verify.main([*arguments, str(exported.onnx)]) == 0


def test_verify_detects_another_network(exported, tmp_path):
    other = ConvCrfTransformer(dataclasses.replace(TINY, max_target_positions=30))
    checkpoint = tmp_path / "other.pt"
    save_checkpoint(checkpoint, other, other.config)
    with pytest.raises(UserError, match="another network"):
        verify.main(["--checkpoint", str(checkpoint), "--onnx", str(exported.onnx)])


def test_tie_in_rank_is_left_out_of_the_scores():
    logits = torch.tensor([[[3.0, 1, 0], [1, 2, 2], [0, 5, 1], [9, 0, 1]]])
    tokens = torch.tensor([[0, 2, 1, 0]])
    # The tie at position 1 affects position 0, whose score is read through the rank at 1, and the path
    # score at 1. A score is the difference of two path scores, so position 2 is unsure as well.
    network = SimpleNamespace(crf_layer=DynamicCRF(vocab=3, rank=1, beam=2))
    unsure = unsure_scores(network, logits, tokens, verify_one_pass.SCORE_TOLERANCE)
    assert unsure.tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "missing", "foreign"])
def test_bad_onnx_files(damage, exported, tmp_path):
    path = tmp_path / "bad.onnx"
    if damage == "cut":
        path.write_bytes(exported.onnx.read_bytes()[:-2000])
    elif damage == "text":
        path.write_text("not a model")
    elif damage == "empty":
        path.touch()
    elif damage == "foreign":
        value = onnx.helper.make_tensor_value_info("x", 1, [1])
        out = onnx.helper.make_tensor_value_info("y", 1, [1])
        node = onnx.helper.make_node("Relu", ["x"], ["y"])
        graph = onnx.helper.make_graph([node], "g", [value], [out])
        onnx.save(onnx.helper.make_model(graph), path)
    with pytest.raises(UserError, match=r"bad\.onnx"):
        verify_one_pass.open_session(path)


def test_failed_export_leaves_the_old_file(tmp_path, monkeypatch, exported):
    path = tmp_path / "model.onnx"
    path.write_text("old")
    with pytest.raises(UserError, match="checkpoint"):
        export.main(["--checkpoint", str(tmp_path / "no.pt"), "--output", str(path)])

    def refuse(*_, **__):
        raise onnx.checker.ValidationError("bad graph")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(onnx.checker.ValidationError):
        onnx_file.save_onnx(ir.load(exported.onnx), path)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


def test_loaded_checkpoint_and_model_agree(exported):
    """The fixture's checkpoint is the network that the file came from."""
    loaded = load_checkpoint(exported.checkpoint).model.state_dict()
    for name, value in exported.model.state_dict().items():
        assert loaded[name].equal(value), name


def test_onnx_runtime_needs_no_library_of_ours(exported):
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(
        exported.onnx.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    tokens, scores = session.run(None, {"src_tokens": np.array([[0, 5, 6, 2]])})
    assert tokens.shape == scores.shape == (1, 8)


def test_fake_tensors_log_nothing_in_the_exporter(caplog):
    """They log a traceback at Ctrl-C."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.level
    logger.addHandler(caplog.handler)
    try:
        with _quiet():
            logger.error("fake tensor raised TypeError")
        assert not caplog.records
        assert logger.level == before
        logger.error("after the export")
        assert [record.message for record in caplog.records] == ["after the export"]
    finally:
        logger.removeHandler(caplog.handler)
