"""The patched halves of a Lite Transformer, with reference functions for plugins, agree with the network."""

import functools

import onnx
import pytest
import torch

from onnx_export import export_ar
from onnx_export.paths import half_path
from onnx_export.verify_ar import random_source
from train_model.models.beam_search import beam_search
from train_model.models.hypotheses import SearchOptions
from train_model.models.incremental import IncrementalDecoder
from train_model.tests.networks import VARIANTS, network
from trt_code import onnx_surgeon
from trt_code.surgeon.ranges import measure_step
from trt_code.tests.surgeon.patched_search import forced, patched, runnable

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
STEPS = 12
IN_EVERY_RUN = ("dynamic", "three branches")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return the path of a variant's exported step; the encoder is in the same folder."""

    @functools.cache
    def export(variant):
        path = tmp_path_factory.mktemp("exported") / "model.onnx"
        export_ar.write(network(variant), path)
        return path

    return export


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(variant, marks=() if variant in IN_EVERY_RUN else pytest.mark.slow)
        for variant in VARIANTS
    ],
)
def test_hypotheses_and_scores_are_those_of_pytorch(variant, exported, tmp_path):
    model = network(variant)
    decoder = runnable(patched(exported(variant), tmp_path, "fp32"))
    source = random_source(3, 9, model.config.src_vocab, torch.Generator().manual_seed(1))
    for beam, len_penalty in ((1, 1.0), (4, 0.6)):
        options = SearchOptions(beam=beam, len_penalty=len_penalty, max_len_b=20)
        expected = beam_search(IncrementalDecoder.of(model), source, options)
        for ours, theirs in zip(beam_search(decoder, source, options), expected, strict=True):
            assert [h.tokens.tolist() for h in ours] == [h.tokens.tolist() for h in theirs]
            torch.testing.assert_close(
                [h.score for h in ours], [h.score for h in theirs], atol=1e-4, rtol=0
            )


@pytest.mark.parametrize("variant", IN_EVERY_RUN)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_low_precision_is_as_near_as_pytorchs_own(variant, precision, exported, tmp_path):
    model = network(variant)
    generator = torch.Generator().manual_seed(2)
    source = random_source(3, 9, model.config.src_vocab, generator)
    words = torch.randint(4, model.config.tgt_vocab, (3, 2, STEPS), generator=generator)
    exact = forced(IncrementalDecoder.of(model.double()), source, words)
    low = forced(IncrementalDecoder.of(model.to(DTYPES[precision])), source, words)
    ours = forced(runnable(patched(exported(variant), tmp_path, precision)), source, words)
    own_error = (low - exact).square().mean().sqrt().item()
    error = (ours - exact).square().mean().sqrt().item()
    print(f"root mean square error {error:.2e}, PyTorch's own {own_error:.2e}")
    assert 0 < error <= 1.5 * own_error


def test_what_overflows_in_a_step_stays_fp32(tmp_path):
    """The same network with a hidden layer 50,000 times as large, which FP16 does not hold."""
    model = network("dynamic")
    expected = forced_once(model)
    with torch.no_grad():
        layer = model.decoder.layers[1]
        layer.fc1.weight.mul_(5e4)
        layer.fc1.bias.mul_(5e4)
        layer.fc2.weight.div_(5e4)
    export_ar.write(model, tmp_path / "model.onnx")
    path = patched(tmp_path / "model.onnx", tmp_path, "fp16")
    types = {item.name: item.data_type for item in onnx.load(path).graph.initializer}
    low, high = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert types["decoder.layers.0.fc1.bias"] == low
    assert types["decoder.layers.1.fc1.bias"] == high
    found = forced_once(model, runnable(path))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


def forced_once(model, decoder=None):
    generator = torch.Generator().manual_seed(3)
    source = random_source(2, 7, model.config.src_vocab, generator)
    words = torch.randint(4, model.config.tgt_vocab, (2, 2, STEPS), generator=generator)
    return forced(decoder or IncrementalDecoder.of(model), source, words)


def test_ranges_of_a_step_are_those_of_a_search(exported):
    path = exported("dynamic")
    largest = measure_step(
        *(onnx_surgeon.load(file) for file in (half_path(path, "encoder"), path))
    )
    model = network("dynamic")
    keys = []
    attention = model.decoder.layers[0].self_attn.branches[0].k_proj
    attention.register_forward_hook(lambda module, given, out: keys.append(out.abs().max().item()))
    forced_once(model)
    found = largest["next.layers.0.0.key"]
    assert 0.3 * max(keys) < found < 3 * max(keys)  # other sentences for the same network
    assert largest["logprobs"] > 1
