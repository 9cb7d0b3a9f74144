"""Native programs of INT8 networks, against PyTorch with the same rounding and against exact sums."""

import json

import numpy as np
import pytest
import torch

from onnx_export.tests.tiny import random_source
from train_model.models.beam_search import search as torch_search
from train_model.models.hypotheses import SearchOptions
from train_model.models.incremental import IncrementalDecoder
from train_model.quantization import ptq
from train_model.tests.networks import network, of_architecture, small
from trt_code.native import library
from trt_code.native.export import to_program
from trt_code.native.program import SUFFIX, LoadedProgram, Program
from trt_code.native.search import search
from trt_code.native.translation import translate


def quantized(model, keep=()):
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed (make env)")
    generator = torch.Generator().manual_seed(1)
    vocab = model.config.src_vocab
    batches = [random_source(4, length, "right", vocab, generator) for length in (5, 9, 14)]
    return ptq.quantize(model, list(keep), batches).eval()


def loaded(model, folder):
    path = folder / f"model{SUFFIX}"
    to_program(model).save(path)
    return LoadedProgram(library.load(), path)


def sources(model):
    return random_source(8, 12, "right", model.config.src_vocab, torch.Generator().manual_seed(2))


@pytest.mark.parametrize("keep", [(), ("decoder.layers.0.encoder_attn.k_proj", "*.fc2")])
@pytest.mark.parametrize("name", ["conv_crf_transformer", "nonautoregressive_transformer"])
def test_a_pass_in_int8(tmp_path, name, keep):
    made = small() if name == "conv_crf_transformer" else of_architecture(name)
    model = quantized(made, keep)
    tokens = sources(model)
    with torch.no_grad():
        expected, scores = (tensor.numpy() for tensor in model(tokens))
    found, found_scores, _ = translate(loaded(model, tmp_path), tokens.numpy(), 2)
    width = found.shape[1]
    same = found == expected[:, :width]
    assert same.mean() > 0.97  # a value at half a step may be rounded to either side
    close = np.abs(found_scores - scores[:, :width]) < 1e-3
    assert close[same].mean() > 0.9


@pytest.mark.parametrize("name", ["multibranch", "transformer", "lightconv"])
def test_a_search_in_int8(tmp_path, name):
    model = quantized(network("dynamic") if name == "multibranch" else of_architecture(name))
    tokens = sources(model)
    options = SearchOptions(beam=3, max_len_b=12)
    expected = torch_search(IncrementalDecoder.of(model), tokens, options)
    found = search(loaded(model, tmp_path), tokens.numpy(), options, 2)
    equal = [
        np.array_equal(a[: n + 1], b[: n + 1])
        for a, b, n in zip(
            found.tokens[:, 0], expected.tokens[:, 0], expected.lengths[:, 0], strict=True
        )
    ]
    assert np.mean(equal) >= 0.75


def test_threads_share_the_products_of_one_sentence(tmp_path):
    # 12 tokens x 24 x 20,000: more operations than team.h asks for
    model = quantized(small(encoder_ffn_embed_dim=20_000, decoder_ffn_embed_dim=20_000))
    program, tokens = loaded(model, tmp_path), sources(model)[:1].numpy()
    alone = translate(program, tokens, 1)
    for threads in (2, 5):
        shared = translate(program, tokens, threads)
        assert all(np.array_equal(a, b) for a, b in zip(alone, shared, strict=True))


@pytest.mark.parametrize("zeros", [0, 0.95])  # the share of inputs; many of them are skipped
@pytest.mark.parametrize("kind", ["linear", "integer_linear"])
@pytest.mark.parametrize(("outputs", "inputs"), [(4, 1), (15, 7), (33, 64), (150, 129)])
def test_sums_are_exact(tmp_path, outputs, inputs, kind, zeros):
    """Products of the largest values: the sum of two does not fit in 16 bits."""
    rng = np.random.default_rng(outputs)
    weight = rng.choice(np.array([-128, 127, -1, 0, 1], np.int8), (outputs, inputs))
    words = rng.choice(np.array([-128, 127, 126, 3], np.float32), (outputs, inputs))
    words[rng.random(words.shape) < zeros] = 0
    sizes = {"src_vocab": outputs, "tgt_vocab": outputs}
    positions = {"max_source_positions": 9, "max_target_positions": 9}
    program = Program({"config": json.dumps(sizes | positions)})
    x, y, logits = (
        program.register(stage, columns)
        for stage, columns in (("source", inputs), ("target", inputs), ("target", outputs))
    )
    program.add("embed", "source", words, None, 1.0, x)
    program.add("lengths", x, np.zeros((1, inputs), np.float32), 0, 0)
    program.add("embed", "target", words, None, 1.0, y)
    scales, scale = np.full(outputs, 2**-10, np.float32), 0.5
    # embeddings are multiples of the input's scale, so that nothing is rounded
    values = {
        "linear": (weight * scales[:, None], None),
        "integer_linear": (weight, scales, None, scale),
    }
    program.add(kind, "target", y, 0, *values[kind], 0, logits, 0, 0)
    program.add("choose_tokens", logits)
    words *= scale
    program.save(tmp_path / "exact")
    found, scores, _ = translate(
        LoadedProgram(library.load(), tmp_path / "exact"), np.array([[3, 2]]), 1, np.array([4])
    )
    canvas = [0, 3, 3, 2]
    sums = (words[canvas] / scale) @ weight.T.astype(np.float64) * 2**-10 * scale
    assert (np.take_along_axis(sums, found.T, 1)[:, 0] == sums.max(1)).all()
    expected = sums.max(1) - np.log(np.exp(sums - sums.max(1)[:, None]).sum(1)) - sums.max(1)
    np.testing.assert_allclose(scores[0], expected, atol=1e-5)
