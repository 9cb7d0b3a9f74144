"""The fused network's wiring on the CPU (its operators written out), and the shape buckets."""

import collections
import re
from pathlib import Path

import pytest
import torch

from train_model.quantization import ptq
from train_model.tests.networks import of_architecture, small
from trt_code.cuda_graph import streams
from trt_code.cuda_graph.network import FusedNetwork, why_not
from trt_code.cuda_graph.products import Fp8Linear
from trt_code.runners.buckets import batch_bucket, full_batch, length_bucket
from trt_code.tests.kernels import reference_ops


@pytest.fixture(scope="module", autouse=True)
def operators():
    library = reference_ops.register()
    yield
    library._destroy()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_policy": "upstream"},
        {"pred_length_offset": True},
        {"decoder_learned_pos": False},
    ],
)
@torch.no_grad()
def test_the_fused_network_is_the_network(options):
    model = small(**options)
    src_tokens = torch.randint(4, 40, (5, 8))
    src_tokens[0, 3:] = src_tokens[1, 6:] = 1
    width = 16
    network = FusedNetwork(model, torch.float32, torch.device("cpu"))
    own = (
        2 * src_tokens.ne(1).sum(1)
        if network.config.padding_policy == "masked"
        else torch.full((5,), width)
    )
    source = network.encode(src_tokens, own)
    tokens, scores = network.decode(source, width)
    together = network.translate(src_tokens, own, width)
    assert all(a.equal(b) for a, b in zip(together, (tokens, scores, source.lengths), strict=True))

    plain = model.encode(src_tokens)
    lengths = model.predict_length(plain).clamp(max=width)
    canvas = model.initial_canvas(lengths, width)
    assert source.lengths.equal(lengths)
    expected_tokens, expected_scores = model.choose(model.decode(canvas, plain), canvas)
    real = canvas != 1
    assert tokens[real].long().equal(expected_tokens[real])
    torch.testing.assert_close(scores[real], expected_scores[real], rtol=0, atol=1e-4)


@torch.no_grad()
def test_sixteen_bits_use_the_fused_kernels():
    model = small(encoder_embed_dim=32, encoder_attention_heads=2, decoder_attention_heads=2)
    network = FusedNetwork(model, torch.bfloat16, torch.device("cpu"))
    assert network.parts.encoder_layers[0].conv.fused
    assert network.parts.decoder_layers[0].fused
    src_tokens = torch.randint(4, 40, (3, 8))
    source = network.encode(src_tokens, torch.full((3,), 16))
    tokens, scores = network.decode(source, 16)
    assert tokens.shape == scores.shape == (3, 16)
    exact = model.encode(src_tokens)
    keys, values = zip(*model.decoder.source_keys(exact.x), strict=True)
    pairs = [x.transpose(1, 2).flatten(2) for pair in zip(keys, values, strict=True) for x in pair]
    assert reference_ops.relative_error(source.keys_values, torch.cat(pairs, -1)) < 0.05


@pytest.mark.parametrize("kept", [[], ["*.fc2"], ["*.linear1", "decoder.output_projection"]])
@torch.no_grad()
def test_fp8_comes_close_and_leaves_out_what_int8_leaves_out(kept, monkeypatch):
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed (make env)")
    monkeypatch.setattr("trt_code.cuda_graph.network.LEAST_FP8_ROWS", 40)
    model = small(
        encoder_embed_dim=32, encoder_attention_heads=2, decoder_attention_heads=2, tgt_vocab=64
    )
    src_tokens = torch.randint(4, 40, (5, 8))
    src_tokens[0, 3:] = src_tokens[1, 6:] = 1
    quantized = ptq.quantize(model, kept, [src_tokens])
    device, limits = torch.device("cpu"), torch.full((5,), 16)
    network = FusedNetwork(quantized, torch.float32, device, fp8=True)
    exact = FusedNetwork(model, torch.float32, device)
    low = [
        name
        for layer in network.fp8_parts.decoder_layers
        for name in ("linear1", "linear2", "q_proj", "out_proj", "fc1", "fc2")
        if isinstance(getattr(layer, name), Fp8Linear)
    ]
    assert len(low) == 2 * (6 - bool(kept))
    assert isinstance(network.fp8_parts.output_projection, Fp8Linear) == (len(kept) < 2)
    source, expected = network.encode(src_tokens, limits), exact.encode(src_tokens, limits)
    assert 1e-3 < reference_ops.relative_error(source.keys_values, expected.keys_values) < 0.1
    decoded = [
        x._run_decoder(*x._open(y, 16)[:1], y, x._parts_for(y.keys))
        for x, y in ((network, expected), (exact, expected))
    ]
    factor = network.fp8_parts.output_projection.fp8_factor or 1.0
    assert 1e-3 < reference_ops.relative_error(decoded[0].float() / factor, decoded[1]) < 0.15
    few = FusedNetwork(quantized, torch.float32, device, fp8=True)
    few = few.encode(src_tokens[:4], limits[:4])  # too few rows for FP8
    assert few.keys_values.equal(exact.encode(src_tokens[:4], limits[:4]).keys_values)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"encoder_normalize_before": True}, "post-norm"),
        ({"decoder_conv_type": "lightweight"}, "lightweight"),
        ({"conv_linear": False}, "inner linears"),
        ({"src_embedding_copy": False}, "copy"),
        ({"crf_beam_approx": 65, "tgt_vocab": 80}, "a beam of 64, the model has 65"),
    ],
)
def test_networks_that_the_fused_network_cannot_replace_are_refused(options, word):
    assert word in why_not(small(**options))
    assert why_not(small()) is None
    assert "a nacrf_transformer" in why_not(of_architecture("nacrf_transformer"))


def test_buckets_hold_every_shape_and_are_few():
    for batch in range(1, 300):
        assert batch <= batch_bucket(batch) <= max(2 * batch - 1, batch + 15)
    for length in range(1, 255):
        assert length <= length_bucket(length, 254) <= length + 31
    assert len({length_bucket(length, 254) for length in range(1, 255)}) <= 16
    assert len({batch_bucket(batch) for batch in range(1, 129)}) <= 12


def test_a_full_batch_is_the_largest_that_needs_no_padding():
    for batch in range(1, 300):
        full = full_batch(batch)
        assert batch_bucket(full) == full <= batch < batch_bucket(full + 1)


def test_networks_get_streams_of_their_own_from_a_pool_that_hands_them_out_in_turn(monkeypatch):
    class Stream:
        made = 0
        __slots__ = ("cuda_stream",)  # no weak references, as PyTorch's must have none

        def __init__(self, device):
            self.cuda_stream = Stream.made % streams.POOL
            Stream.made += 1

    class Owner:
        def __init__(self):
            self.stream = streams.own_stream(self).cuda_stream

    monkeypatch.setattr(streams.torch.cuda, "Stream", Stream)
    monkeypatch.setattr(streams, "_owners", collections.Counter())
    owners = [Owner() for _ in range(3)]
    kept = {owner.stream for owner in owners}
    assert len(kept) == 3
    for _ in range(2 * streams.POOL):
        assert Owner().stream not in kept  # each is free again at once
    owners += [Owner() for _ in range(streams.POOL - 3)]
    assert len({owner.stream for owner in owners}) == streams.POOL
    assert Owner().stream in {owner.stream for owner in owners}  # all are in use
    free = owners.pop().stream
    assert Owner().stream == free


def test_the_references_have_the_bindings_schemas():
    """The CPU references must have the compiled operators' signatures to replace them."""
    folder = Path(__file__).parents[2] / "torch_ops"
    sources = "".join(path.read_text() for path in sorted(folder.glob("*.cpp")))
    declared = re.findall(r'\.def\(\s*((?:"[^"]*"\s*)+)', sources)
    bindings = {schema("".join(re.findall(r'"([^"]*)"', text))) for text in declared}
    for function, arguments in (reference_ops.SCHEMAS | reference_ops.QUESTIONS).items():
        assert schema(function.__name__ + arguments) in bindings, function.__name__


def schema(text):
    """Return a schema without spaces, without names of results, and with int for SymInt."""
    arguments, results = text.replace("SymInt", "int").split("->")
    return (arguments + "->" + re.sub(r"Tensor \w+", "Tensor", results)).replace(" ", "")
