"""The whole surgeon: the patched file's content, and its agreement with the network in ONNX Runtime."""

import collections

import numpy as np
import onnx
import pytest
import torch

from onnx_export import onnx_file, verify_one_pass
from onnx_export.tests.tiny import TINY, Exported, export_tiny
from train_model.cli import UserError
from trt_code import graph_lint, onnx_surgeon
from trt_code.tests.surgeon.patched_network import patched, session_of

LAYERS = TINY.encoder_layers + TINY.decoder_layers
NORMS = 2 * TINY.encoder_layers + 3 * TINY.decoder_layers


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Exported:
    return export_tiny(tmp_path_factory.mktemp("tiny"))


def count(model: onnx.ModelProto) -> collections.Counter:
    return collections.Counter(node.op_type for node in model.graph.node)


SWITCHES = [
    [],
    ["--layer-norm", "native"],
    ["--without", "conv-taps"],
    ["--without", "conv-mask", "--without", "residual", "--without", "top-k"],
    ["--without", "cumulative-sum"],
]


@pytest.mark.parametrize("flags", SWITCHES, ids=" ".join)
def test_patched_fp32_is_the_network(flags, exported, tmp_path, monkeypatch):
    # without its pass, CumSum of integers stays and the lint at the end reports it
    monkeypatch.setattr(onnx_surgeon.graph_lint, "report", lambda model, path: 0)
    session = session_of(patched(exported, tmp_path, *flags))
    assert [
        check for check in verify_one_pass.verify(exported.model, session) if not check.good
    ] == []


def test_patched_graph_is_as_tensorrt_wants_it(exported, tmp_path, capsys):
    model = patched(exported, tmp_path)
    nodes = count(model)
    assert nodes["LiteDynamicConv"] == LAYERS
    assert nodes["LiteLayerNorm"] == NORMS
    assert nodes["LiteTopK"] == nodes["LiteCrfDecode"] == 1
    assert not nodes.keys() & {"LayerNormalization", "CumSum", "TopK"}
    assert len(model.functions) == 0
    # one softmax per decoder layer remains, for attention, and that of the copy
    assert nodes["Softmax"] == TINY.decoder_layers + 1
    for node in model.graph.node:
        if node.domain:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            assert attributes["plugin_version"] == b"1"
            assert attributes["plugin_namespace"] == b""
    metadata = {item.key: item.value for item in model.metadata_props}
    assert metadata["precision"] == "fp32"
    assert metadata["padding_policy"] == "masked"
    lines = capsys.readouterr().out.splitlines()
    assert f"    {LAYERS}  softmax over taps and layout changes into LiteDynamicConv" in lines
    assert f"   {NORMS}  LayerNormalization to LiteLayerNorm" in lines


def test_no_transpose_or_softmax_is_left_around_a_convolution(exported, tmp_path):
    model = patched(exported, tmp_path)
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "LiteDynamicConv":
            around = [producers[name] for name in node.input if name in producers]
            around += [user for user in model.graph.node if node.output[0] in user.input]
            assert not {"Transpose", "Softmax"} & {item.op_type for item in around}
            assert len(node.input) == (3 if "encoder" in node.name else 2)


def test_names_do_not_change(exported, tmp_path):
    before = onnx.load(exported.onnx)
    after = patched(exported, tmp_path)
    kept = {node.name for node in before.graph.node} & {node.name for node in after.graph.node}
    assert "decoder.layers.1.fc1/MatMul" in kept
    weights = {item.name for item in after.graph.initializer}
    parameters = {item.name for item in before.graph.initializer if item.name.endswith("weight")}
    assert parameters <= weights
    assert [item.name for item in after.graph.output] == ["output_tokens", "output_scores"]


@pytest.mark.parametrize(
    ("precision", "agreement", "sums"), [("fp16", 0.98, 0.1), ("bf16", 0.85, 0.8)]
)
def test_low_precision_graph(precision, agreement, sums, exported, tmp_path, capsys):
    model = patched(exported, tmp_path, "--precision", precision, "--explain")
    low = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    types = {item.name: item.data_type for item in model.graph.initializer}
    for name, kind in types.items():
        if name.endswith("weight") and "norm" not in name:
            wide = name == "decoder.embed_length.weight"
            assert kind == (onnx.TensorProto.FLOAT if wide else low), name
    said = capsys.readouterr().out
    assert "path scores of the CRF" in said
    assert "1 casts" in said
    generator = torch.Generator().manual_seed(3)
    source = verify_one_pass.random_source(16, 20, "right", TINY.src_vocab, generator)
    with torch.inference_mode():
        tokens, scores = (output.numpy() for output in exported.model(source))
    got_tokens, got_scores = session_of(model).run(None, {"src_tokens": source.numpy()})
    assert np.isfinite(got_scores).all()
    real = tokens != 1
    assert (got_tokens == tokens)[real].mean() >= agreement
    same = (got_tokens == tokens).all(1)
    assert same.any()
    # a row's scores sum to its path's score, whichever of equal candidates is chosen
    error = np.abs((got_scores - scores).sum(1))[same]
    assert error.max() <= sums


def test_native_norms_in_fp16_run_in_fp32_between_casts(exported, tmp_path):
    model = patched(exported, tmp_path, "--precision", "fp16", "--layer-norm", "native")
    nodes = count(model)
    assert nodes["LayerNormalization"] == NORMS
    assert nodes["LiteLayerNorm"] == 0
    types = {item.name: item.type.tensor_type.elem_type for item in model.graph.value_info}
    weights = {item.name: item.data_type for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            assert types[node.output[0]] == onnx.TensorProto.FLOAT
            assert weights[node.input[1]] == weights[node.input[2]] == onnx.TensorProto.FLOAT
    source = verify_one_pass.random_source(
        4, 9, "right", TINY.src_vocab, torch.Generator().manual_seed(3)
    )
    with torch.inference_mode():
        tokens = exported.model(source)[0].numpy()
    got, _ = session_of(model).run(None, {"src_tokens": source.numpy()})
    assert (got == tokens).mean() > 0.95


def test_fp16_and_bf16_differ_from_fp32(exported, tmp_path):
    """The reference rounds: a low precision with the bits of FP32 would test nothing."""
    source = {"src_tokens": np.array([[0, 5, 6, 7, 8, 9, 2]])}
    scores = [
        session_of(patched(exported, tmp_path, "--precision", name)).run(None, source)[1]
        for name in ("fp32", "fp16", "bf16")
    ]
    errors = [np.abs((score - scores[0]).sum()) for score in scores]
    assert 0 < errors[1] < errors[2]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_weights_that_overflow(precision, exported, tmp_path):
    """Feed-forward values of 1e6: FP16 keeps these layers in FP32, and nothing is inf or NaN."""
    model = onnx.load(exported.onnx)
    for item in model.graph.initializer:
        if item.name.endswith(("fc1.weight", "fc2.weight")):
            array = onnx.numpy_helper.to_array(item) * 1000
            item.CopyFrom(onnx.numpy_helper.from_array(array, item.name))
    scaled = tmp_path / "scaled.onnx"
    onnx.save(model, scaled)
    source = {"src_tokens": np.array([[0, 5, 6, 7, 8, 9, 2], [0, 4, 2, 1, 1, 1, 1]])}
    expected = verify_one_pass.open_session(scaled).run(None, source)
    output = tmp_path / "patched.onnx"
    onnx_surgeon.main(["--input", str(scaled), "--output", str(output), "--precision", precision])
    tokens, scores = session_of(onnx.load(output)).run(None, source)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(tokens != 1, expected[0] != 1)
    if precision == "fp16":
        kept = onnx.load(output)
        types = {item.name: item.data_type for item in kept.graph.initializer}
        assert types["encoder.layers.0.fc2.weight"] == onnx.TensorProto.FLOAT
        np.testing.assert_allclose(scores.sum(1), expected[1].sum(1), rtol=0.02)


@pytest.mark.parametrize("damage", ["cut", "text", "missing", "foreign", "int8"])
def test_bad_input_is_one_line_and_changes_no_file(damage, exported, tmp_path):
    path, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    output.write_text("old")
    if damage == "cut":
        path.write_bytes(exported.onnx.read_bytes()[:-3000])
    elif damage == "text":
        path.write_text("not a model")
    elif damage == "foreign":
        value = onnx.helper.make_tensor_value_info("x", 1, [1])
        out = onnx.helper.make_tensor_value_info("y", 1, [1])
        node = onnx.helper.make_node("Relu", ["x"], ["y"])
        graph = onnx.helper.make_graph([node], "g", [value], [out])
        imports = [onnx.helper.make_opsetid("", 20)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=imports), path)
    elif damage == "int8":
        path.write_bytes(exported.onnx.read_bytes())
    word = {"int8": "QuantizeLinear", "foreign": "nothing to patch"}.get(damage, r"in\.onnx")
    precision = "int8" if damage == "int8" else "fp32"
    with pytest.raises(UserError, match=word):
        onnx_surgeon.main(["--input", str(path), "--output", str(output), "--precision", precision])
    assert output.read_text() == "old"


@pytest.mark.parametrize("path", [".", "/"])
def test_a_folder_without_a_name_is_one_line(path, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no ONNX file"):
        onnx_surgeon.main(["--input", path, "--output", "out.onnx"])
    with pytest.raises(UserError, match="is a folder; give the name of a file"):
        onnx_surgeon.main(["--input", "in.onnx", "--output", path])
    with pytest.raises(UserError, match="run `make plugins`"):
        graph_lint.main([str(exported.onnx), "--plugins", path])
    assert not list(tmp_path.iterdir())


def test_patching_a_patched_file_changes_nothing_more(exported, tmp_path):
    once = patched(exported, tmp_path)
    (tmp_path / "again").mkdir()
    path = tmp_path / "again" / "in.onnx"
    onnx.save(once, path)
    twice = patched(Exported(exported.model, exported.checkpoint, path), tmp_path / "again")
    assert count(once) == count(twice)
    assert onnx_file.load_onnx(path).graph.node == twice.graph.node


def with_quantizers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add Q/DQ as an export after QAT has them: on both operands of every product with a weight."""
    make = onnx.helper.make_node
    weights = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    constants = {"one_scale": np.array(0.05, np.float32), "no_shift": np.array(0, np.int8)}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            x, name = node.input
            scale = np.abs(weights[name]).max(0) / 127
            constants[f"{name}.int8"] = np.round(weights[name] / scale).astype(np.int8)
            constants[f"{name}.scale"] = scale.astype(np.float32)
            constants[f"{name}.zero"] = np.zeros(len(scale), np.int8)
            at = node.name
            nodes += [
                make("QuantizeLinear", [x, "one_scale", "no_shift"], [f"{at}.q"], f"{at}.q"),
                make(
                    "DequantizeLinear",
                    [f"{at}.q", "one_scale", "no_shift"],
                    [f"{at}.dq"],
                    f"{at}.d",
                ),
                make(
                    "DequantizeLinear",
                    [f"{name}.int8", f"{name}.scale", f"{name}.zero"],
                    [f"{at}.w"],
                    f"{at}.w",
                    axis=1,
                ),
            ]
            node.input[:] = [f"{at}.dq", f"{at}.w"]
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in constants.items()
    )
    return onnx.shape_inference.infer_shapes(model)


def test_int8_graph(exported, tmp_path):
    """Scales become FP16, because the output of DequantizeLinear has the type of its scale."""
    path = tmp_path / "qat.onnx"
    onnx.save(with_quantizers(onnx.load(exported.onnx)), path)
    source = {"src_tokens": np.array([[0, 5, 6, 7, 8, 9, 2], [0, 4, 2, 1, 1, 1, 1]])}
    expected = verify_one_pass.open_session(path).run(None, source)
    quantized = Exported(exported.model, exported.checkpoint, path)
    model = patched(quantized, tmp_path, "--precision", "int8")
    types = {item.name: item.data_type for item in model.graph.initializer}
    assert types["one_scale"] == onnx.TensorProto.FLOAT16
    assert types["encoder.layers.0.fc1.weight.scale"] == onnx.TensorProto.FLOAT16
    assert types["encoder.layers.0.fc1.weight.int8"] == onnx.TensorProto.INT8
    assert "encoder.layers.0.fc1.weight" not in types
    assert count(model)["LiteDynamicConv"] == LAYERS
    tokens, scores = session_of(model).run(None, source)
    assert np.isfinite(scores).all()
    real = expected[0] != 1
    assert (tokens == expected[0])[real].mean() > 0.8


def test_nvidias_own_surgeon_reads_it_and_finds_nothing_to_tidy(exported, tmp_path):
    onnx_graphsurgeon = pytest.importorskip(
        "onnx_graphsurgeon", reason="onnx-graphsurgeon is not installed (make env)"
    )
    model = patched(exported, tmp_path, "--precision", "fp16")
    graph = onnx_graphsurgeon.import_onnx(model)
    graph.cleanup(remove_unused_graph_inputs=True).toposort()
    assert collections.Counter(node.op for node in graph.nodes) == count(model)
    assert [tensor.name for tensor in graph.inputs] == ["src_tokens"]
    plugins = [node for node in graph.nodes if node.op.startswith("Lite")]
    assert plugins
    assert {node.attrs["plugin_version"] for node in plugins} == {"1"}
