"""INT8 networks as ONNX: places of the Q/DQ pairs, stored weights, and agreement with real INT8."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from onnx_export.session import session_options
from onnx_export.tests.tiny import TINY, export_quantized
from onnx_export.verify_one_pass import random_source
from train_model.models.fold import fold

KEPT = "decoder.layers.1.fc2"


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    """Return a PyTorch network and the file exported from it; one layer is kept in FP32."""
    return export_quantized(tmp_path_factory.mktemp("int8"), [KEPT])


def weighted_products(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return the products with a weight by layer name, without the sum over positions."""
    return {
        node.name.removesuffix("/MatMul"): node
        for node in model.graph.node
        if node.op_type == "MatMul" and (node.name.count(".") > 1 or "projection" in node.name)
    }


def test_every_product_has_pairs_on_both_inputs(int8):
    network, path = int8
    model = onnx.load(path)
    producers = {name: node for node in model.graph.node for name in node.output}
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    weights = fold(network)
    found = {}
    for name, node in weighted_products(model).items():
        x, weight = (producers.get(value) for value in node.input)
        if weight is None or weight.op_type != "DequantizeLinear":
            continue
        found[name] = node
        assert (x.op_type, producers[x.input[0]].op_type) == ("DequantizeLinear", "QuantizeLinear")
        numbers, scale, zero = (arrays[item] for item in weight.input)
        assert (numbers.dtype, zero.dtype, scale.shape) == (np.int8, np.int8, zero.shape)
        assert not zero.any()
        (axis,) = (item.i for item in weight.attribute if item.name == "axis")
        assert (axis, numbers.shape[1]) == (1, len(scale))
        layer = weights.get_submodule(name)
        expected = layer.weight_quantizer(layer.weight.t(), 1)
        torch.testing.assert_close(torch.from_numpy(numbers * scale), expected, rtol=1e-6, atol=0)
    kept = {name for name in weighted_products(model) if name == KEPT}
    assert kept
    assert not kept & found.keys()
    # the keys and values of the source are one product, and copy_attn has none
    merged = sum(".k_proj" in name or ".v_proj" in name for name in network.config.int8_layers)
    assert len(found) == len(network.config.int8_layers) - merged + 1
    assert {"decoder.output_projection", "decoder.source_projection"} <= found.keys()


def test_no_weight_is_also_stored_in_fp32(int8):
    _, path = int8
    sizes = {item.name: item for item in onnx.load(path).graph.initializer}
    names = [name for name, item in sizes.items() if item.data_type == onnx.TensorProto.INT8]
    weights = [name for name in names if len(sizes[name].dims) == 2]
    assert "encoder.layers.0.fc1.weight" in weights
    floats = {name for name, item in sizes.items() if item.data_type == onnx.TensorProto.FLOAT}
    assert f"{KEPT}.weight" in floats
    assert not [name for name in floats if name.endswith((".linear1.weight", "fc1.weight"))]


def test_onnx_runtime_computes_in_integers_and_gives_the_same(int8, tmp_path):
    network, path = int8
    options = session_options()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    products = sum(
        node.input[1].endswith("/DequantizeLinear")
        for node in weighted_products(onnx.load(path)).values()
    )
    assert kinds.count("MatMulIntegerToFloat") == products > 20
    assert "DequantizeLinear" not in kinds  # all products are in integers
    generator = torch.Generator().manual_seed(7)
    same = total = 0
    for batch, length, padding in [
        (1, 1, "none"),
        (3, 7, "right"),
        (8, 20, "right"),
        (2, 40, "none"),
    ]:
        source = random_source(batch, length, padding, TINY.src_vocab, generator)
        with torch.inference_mode():
            tokens, _ = network(source)
        got = session.run(["output_tokens"], {"src_tokens": source.numpy()})[0]
        assert got.shape == tuple(tokens.shape)
        real = tokens.numpy() != 1
        same += (got == tokens.numpy())[real].sum()
        total += real.sum()
    # Integer sums are exact. A value that FP32 rounds differently before it may become another integer.
    assert same / total > 0.97
