"""INT8 after the export: surgeon, lint, runners, and the report of the kernels."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from onnx_export import export, export_one_pass, onnx_file
from onnx_export.tests.tiny import TINY, export_quantized, export_tiny
from onnx_export.verify_one_pass import random_source
from train_model.cli import UserError
from train_model.model_folder import ModelFolder
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.models.fold import fold
from train_model.quantization import ptq
from trt_code import build_engine, onnx_surgeon
from trt_code.bench import Bench
from trt_code.graph_lint import lint
from trt_code.measure import layer_precision
from trt_code.runners import Unavailable, create
from trt_code.tests.engine import mock_tensorrt, real_tensorrt
from trt_code.tests.surgeon.graph_texts import body
from trt_code.tests.surgeon.patched_network import session_of

NORMS = 2 * TINY.encoder_layers + 3 * TINY.decoder_layers
SHAPES = [(1, 1, "none"), (3, 7, "right"), (8, 20, "right"), (2, 40, "none")]


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    return export_quantized(tmp_path_factory.mktemp("int8"))


def patched(path, folder, *flags: str) -> onnx.ModelProto:
    output = folder / "model.int8.onnx"
    given = ["--input", str(path), "--output", str(output), "--precision", "int8", *flags]
    assert onnx_surgeon.main(given) == 0  # the lint finds nothing
    return onnx.load(output)


def agreement(network, model: onnx.ModelProto) -> float:
    """Return the share of tokens that are equal to those of the network in PyTorch."""
    session = session_of(model)
    generator = torch.Generator().manual_seed(7)
    same = total = 0
    for shape in SHAPES:
        source = random_source(*shape, TINY.src_vocab, generator)
        with torch.inference_mode():
            expected = network(source)[0].numpy()
        got = session.run(["output_tokens"], {"src_tokens": source.numpy()})[0]
        same += (got == expected)[expected != 1].sum()
        total += (expected != 1).sum()
    return same / total


def test_the_patched_graph_is_int8_and_fp16(int8, tmp_path):
    network, path = int8
    model = patched(path, tmp_path)
    before = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    after = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    scales = products = 0
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = after[node.input[1]]
            assert scale.dtype == np.float16
            # These are the network's own scales, which calibration rounded to FP16. Only scales into which
            # attention's scale, here not a power of two, was folded are rounded again.
            again = "q_proj.weight" in node.input[1]
            np.testing.assert_allclose(
                scale.astype(np.float32), before[node.input[1]], rtol=2**-11 if again else 0, atol=0
            )
            scales += 1
        elif node.op_type == "MatMul":
            kinds = {getattr(producers.get(name), "op_type", None) for name in node.input}
            assert "DequantizeLinear" not in kinds or kinds == {"DequantizeLinear"}
            products += kinds == {"DequantizeLinear"}
    merged = sum(".k_proj" in name or ".v_proj" in name for name in network.config.int8_layers)
    assert products == len(network.config.int8_layers) - merged + 1
    assert scales == 3 * products
    assert sum(node.op_type == "LiteLayerNorm" for node in model.graph.node) == NORMS
    # FP16 between the products rounds more than FP32, and random weights give many near ties
    assert agreement(network, model) > 0.85


def test_residuals_are_int8_only_on_demand(int8, tmp_path):
    network, path = int8

    def rounded(model: onnx.ModelProto) -> int:
        made = {name: node.op_type for node in model.graph.node for name in node.output}
        norms = [node for node in model.graph.node if node.op_type == "LiteLayerNorm"]
        return sum(
            any(made.get(name) == "DequantizeLinear" for name in (node.input[0], node.input[3]))
            for node in norms
        )

    assert rounded(patched(path, tmp_path)) == 0
    model = patched(path, tmp_path, "--quantize-residuals")
    assert rounded(model) > NORMS / 2
    assert agreement(network, model) > 0.5


def products(graph: onnx.GraphProto) -> dict[str, bool]:
    """Return every MatMul by a weight, and whether it reads INT8."""
    made = {name: node.op_type for node in graph.node for name in node.output}
    weights = {tensor.name for tensor in graph.initializer}
    read = {
        n.name: [made.get(name, name) for name in n.input]
        for n in graph.node
        if n.op_type == "MatMul"
    }
    return {
        name: inputs == ["DequantizeLinear"] * 2
        for name, inputs in read.items()
        if "DequantizeLinear" in inputs or weights.intersection(inputs)
    }


def layers_of(graph: onnx.GraphProto) -> list[dict]:
    """Return the report of an engine that follows the graph, except for one product in FP16."""
    names = [name for name, int8 in products(graph).items() if int8]
    return [
        layer(f"gemm_{name}", "gemm", [kind, kind], nodes=f"[ONNX Layer: {name}]")
        for name, kind in zip(names, ["Half"] + ["Int8"] * len(names), strict=False)
    ]


def test_an_engine_is_built_reported_and_run(int8, tmp_path, monkeypatch):
    """Uses the mock of TensorRT. An INT8 graph is built like every strongly typed graph."""
    network, path = int8
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "build" / "tiny"
    folder.mkdir(parents=True)
    graph = patched(path, folder).graph
    trt = mock_tensorrt.install(monkeypatch)
    report = json.dumps({"Layers": layers_of(graph)})
    monkeypatch.setattr(
        mock_tensorrt.EngineInspector, "get_engine_information", lambda self, format: report
    )
    names = [str(folder / f"model.int8.{end}") for end in ("onnx", "plan", "layers.json")]
    flags = [
        text
        for pair in zip(("--onnx", "--output", "--layer-report"), names, strict=True)
        for text in pair
    ]
    build_engine.main(flags)
    config, strongly_typed = trt.built_config, trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    # the graph defines the INT8 layers, so no precision and no calibrator is set
    assert trt.creation_flags == 1 << strongly_typed
    assert config._flags == {trt.BuilderFlag.TF32}
    assert config.profiling_verbosity is mock_tensorrt.ProfilingVerbosity.DETAILED
    sidecar = json.loads((folder / "model.int8.plan.json").read_text())
    assert sidecar["graph"]["path"] == "model.int8.onnx"
    assert "--layer-report" in sidecar["command"]
    with create("trt", ModelFolder("tiny", Path("checkpoint.pt")), "int8", "cuda") as runner:
        source = np.array([[0, 5, 6, 2]])
        assert runner.run(source).tokens.tolist() == [[*source[0], *source[0]]]
    note = Bench.precision_note(runner)
    merged = sum(".k_proj" in name or ".v_proj" in name for name in network.config.int8_layers)
    count = len(network.config.int8_layers) - merged + 1
    assert note.startswith(f"products: {count - 1} INT8, 1 FP16 (")
    assert note.endswith("model.int8.layers.json)")


@pytest.mark.parametrize("plugins", ["lite", "none"])
def test_the_real_tensorrt_builds_it(int8, tmp_path, plugins):
    trt = real_tensorrt.tensorrt()
    model = patched(int8[1], tmp_path, "--plugins", plugins)
    reply = real_tensorrt.build(trt, model)
    assert reply.refused_by == "", reply.words
    assert (reply.plugins > 0) == (plugins == "lite")


def test_kept_layers_stay_in_higher_precision(int8, tmp_path):
    plain = load_checkpoint(export_tiny(tmp_path).checkpoint).model
    generator = torch.Generator().manual_seed(5)
    batches = [random_source(4, 9, "right", TINY.src_vocab, generator)]
    kept = ptq.quantize(plain, ["*.fc2", "decoder.output_projection"], batches)
    path = tmp_path / "model.qdq.onnx"
    onnx_file.save_onnx(export_one_pass.to_onnx(fold(kept)), path)
    for graph in (onnx.load(path).graph, patched(path, tmp_path).graph):
        found = products(graph)
        high = {name for name, quantized in found.items() if not quantized}
        layers = TINY.encoder_layers + TINY.decoder_layers
        assert sum(".fc2" in name for name in high) == layers
        assert any("output_projection" in name for name in high)
        assert sum(found.values()) == sum(products(onnx.load(int8[1]).graph).values()) - layers - 1
    found = {product.name: product.precision for product in layer_precision.of_session(path)}
    assert {precision for name, precision in found.items() if ".fc2" in name} == {"FP32"}
    assert {precision for name, precision in found.items() if ".fc1" in name} == {"INT8"}


def test_int8_of_a_graph_without_pairs_is_refused(tmp_path):
    exported = export_tiny(tmp_path)
    output = tmp_path / "model.int8.onnx"
    with pytest.raises(UserError, match="make ptq"):
        onnx_surgeon.main(
            ["--input", str(exported.onnx), "--output", str(output), "--precision", "int8"]
        )
    assert not output.exists()


HALF = np.float16
PAIR = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (
            body(
                f"{PAIR} y = MatMul(d, w)",
                "float[B,2] x",
                "float[B,2] y",
                s=np.array(0.1, np.float32),
                z=np.array(0, np.int8),
                w=np.ones((2, 2), np.float32),
            ),
            "its second input is not quantized",
        ),
        (
            body(
                f"{PAIR} y = Relu(d)",
                "float16[B,2] x",
                "float16[B,2] y",
                s=np.array(1e-6, HALF),
                z=np.array(0, np.int8),
            ),
            "below the normal numbers of FP16",
        ),
    ],
)
def test_lint(graph, reason):
    assert any(reason in str(finding) for finding in lint(graph))


def test_int8_products_of_onnx_runtime_are_reported(int8, capsys):
    network, path = int8
    layer_precision.main([str(path)])
    lines = capsys.readouterr().out.splitlines()
    merged = sum(".k_proj" in name or ".v_proj" in name for name in network.config.int8_layers)
    products = len(network.config.int8_layers) - merged + 1
    assert f"{products} INT8" in lines[-1]
    assert any(line.startswith("INT8  MatMulIntegerToFloat") and "fc1" in line for line in lines)


def layer(name: str, kind: str, inputs: list[str], tactic: str = "", nodes: str = "") -> dict:
    """A layer as TensorRT 10's engine inspector describes it in detail."""
    tensors = [
        {"Name": f"{name}.{index}", "Dimensions": [16, 64, 512], "Format/Datatype": text}
        for index, text in enumerate(inputs)
    ]
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": tensors,
        "Outputs": [{"Name": name, "Dimensions": [16, 64, 512], "Format/Datatype": "Half"}],
        "TacticName": tactic,
        "Metadata": nodes,
    }


def test_the_layer_report_of_an_engine_is_read(tmp_path, capsys):
    report = tmp_path / "model.int8.layers.json"
    layers = [
        layer("a", "gemm", ["Int8", "Int8"], "sm80_xmma_gemm_i8f32_i8i32_f32_tn", "[ONNX Layer: fc1/MatMul]"),
        layer("b", "MatrixMultiply", ["Row major linear FP16 format"]),
        layer("c", "kgen", ["Half"], "__myl_AddMean"),
        layer("d", "gemm", ["Float", "Half"], nodes="[ONNX Layer: fc2/MatMul][ONNX Layer: fc2/Add]"),
    ]  # fmt: skip
    report.write_text(json.dumps({"Layers": layers, "Bindings": []}))
    products = layer_precision.of_engine(report)
    assert [(product.name, product.precision) for product in products] == [
        ("fc1/MatMul", "INT8"),
        ("b", "FP16"),
        ("fc2/MatMul + fc2/Add", "FP16"),
    ]
    layer_precision.main([str(report)])
    assert capsys.readouterr().out.splitlines()[-1] == "products: 2 FP16, 1 INT8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is missing; make it with"),
        ("no json", "is not JSON"),
        ('{"Layers": [1, null]}', "is not a layer report"),
        ('{"Layers": 7}', "is not a layer report"),
        ('{"Layers": [{"Metadata": 3, "LayerType": "gemm"}]}', "is not a layer report"),
        ("[" * 100_000, "is not JSON"),
        ('{"Layers": ["a", "b"]}', "names of layers alone"),
    ],
)
def test_other_files_are_not_layer_reports(text, message, tmp_path):
    path = tmp_path / "layers.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        layer_precision.main([str(path)])


def test_runners_of_int8(tiny_files, tmp_path):
    """PyTorch with INT8 rounding and ONNX Runtime with integers, from the files that make builds."""
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed (make env)")
    options = {"build_dir": tmp_path}
    for name, remedy in (("torch", "make ptq"), ("ort", "make patch PRECISION=int8 MODEL=tiny")):
        with pytest.raises(Unavailable, match=remedy):
            create(name, tiny_files, "int8", "cpu", **options)
    network = load_checkpoint(tiny_files.checkpoint).model
    generator = torch.Generator().manual_seed(1)
    vocab = network.config.src_vocab
    batches = [random_source(8, 12, "right", vocab, generator) for _ in range(4)]
    quantized = ptq.quantize(network, [], batches)
    calibrated = tmp_path / "tiny-ptq" / "checkpoint.pt"
    save_checkpoint(calibrated, quantized, quantized.config)
    output = tmp_path / "tiny" / "model.qdq.onnx"
    export.main(["--checkpoint", str(calibrated), "--output", str(output)])
    source = random_source(8, 12, "right", vocab, generator).numpy()
    with create("torch", tiny_files, "int8", "cpu", **options) as runner:
        expected = runner.run(source)
    with torch.inference_mode():
        assert np.array_equal(expected.tokens, quantized(torch.from_numpy(source))[0].numpy())
    with create("ort", tiny_files, "int8", "cpu", **options) as runner:
        got = runner.run(source)
    assert (got.tokens == expected.tokens).mean() > 0.95
    # a fine-tuned checkpoint has priority
    tuned = tmp_path / "tiny-qat" / "checkpoint.pt"
    tuned.parent.mkdir()
    shutil.copy(tiny_files.checkpoint, tuned)
    with create("torch", tiny_files, "int8", "cpu", **options) as runner:
        assert np.array_equal(
            runner.run(source).tokens, network(torch.from_numpy(source))[0].numpy()
        )
