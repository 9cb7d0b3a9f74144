"""Native programs of networks with every option, against the networks in PyTorch."""

import numpy as np
import pytest
import torch

from onnx_export.tests.tiny import random_source
from train_model.cli import UserError
from train_model.data.files import read_lines
from train_model.model_folder import find_model
from train_model.models.beam_search import search as torch_search
from train_model.models.checkpoint import load_checkpoint
from train_model.models.hypotheses import SearchOptions
from train_model.models.incremental import IncrementalDecoder
from train_model.tests.networks import VARIANTS, network, of_architecture, one_pass, small
from trt_code.measure.throughput import make_codec
from trt_code.native import library
from trt_code.native.export import to_program
from trt_code.native.program import SUFFIX, LoadedProgram
from trt_code.native.search import search
from trt_code.native.translation import translate
from trt_code.text import batching

SEARCHES = {variant: lambda variant=variant: network(variant) for variant in VARIANTS} | {
    "transformer": lambda: of_architecture("transformer"),
    "transformer, post-norm": lambda: of_architecture(
        "transformer", encoder_normalize_before=False, decoder_normalize_before=False
    ),
    "transformer, wide decoder": lambda: of_architecture(
        "transformer", decoder_embed_dim=40, activation_fn="gelu", layernorm_embedding=True
    ),
    "lightconv": lambda: of_architecture("lightconv"),
    "lightconv, leaking": lambda: of_architecture(
        "lightconv", conv_linear=True, activation_fn="swish", padding_policy="upstream"
    ),
    "lightconv, lightweight": lambda: of_architecture(
        *("lightconv",),
        encoder_conv_type="lightweight",
        decoder_conv_type="lightweight",
        encoder_glu=False,
        encoder_kernel_size_list=(4, 6),
        no_token_positional_embeddings=True,
        activation_fn="gelu_accurate",
    ),
}
ONE_PASS = {
    "masked": lambda: small(pred_length_offset=True),
    "leaking": lambda: small(padding_policy="upstream"),
    "plain": lambda: small(src_embedding_copy=False, conv_linear=False, encoder_glu=False),
    "pre-norm": lambda: small(encoder_normalize_before=True, decoder_normalize_before=True),
    "no positions": lambda: small(no_token_positional_embeddings=True),
    "lightweight": lambda: small(encoder_conv_type="lightweight", decoder_conv_type="lightweight"),
    "nonautoregressive": lambda: of_architecture("nonautoregressive_transformer"),
    "without copy": lambda: of_architecture(
        "nonautoregressive_transformer", src_embedding_copy=False
    ),
    "nacrf": lambda: of_architecture("nacrf_transformer", pred_length_offset=True),
}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Writes a network's program and loads it."""

    def load(model):
        path = tmp_path_factory.mktemp("program") / f"model{SUFFIX}"
        to_program(model.eval()).save(path)
        return LoadedProgram(library.load(), path)

    return load


def sources(model, side):
    generator = torch.Generator().manual_seed(4)
    return random_source(7, 13, side, model.config.src_vocab, generator)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_finds_what_pytorch_finds(load, name, side):
    model = SEARCHES[name]().eval()
    program, tokens = load(model), sources(model, side)
    for beam in (1, 4):
        options = SearchOptions(
            beam=beam, max_len_b=20, len_penalty=0.8, unk_penalty=0.3, min_len=2
        )
        expected = torch_search(IncrementalDecoder.of(model), tokens, options)
        for threads in (1, 3):
            found = search(program, tokens.numpy(), options, threads)
            assert (found.counts == expected.counts).all()
            assert (found.tokens == expected.tokens).all()
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
            np.testing.assert_allclose(
                found.positional_scores, expected.positional_scores, atol=2e-5
            )


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ONE_PASS)
def test_a_pass_gives_what_pytorch_gives(load, name, side):
    if name == "nonautoregressive" and side == "left":
        pytest.skip("fairseq copies padding there")
    model = ONE_PASS[name]().eval()
    program, tokens = load(model), sources(model, side)
    with torch.no_grad():
        lengths = model.predict_length(model.encode(tokens))
        expected, scores = (tensor.numpy() for tensor in model(tokens))
    for threads in (1, 3):
        found, found_scores, predicted = translate(program, tokens.numpy(), threads)
        width = found.shape[1]
        assert (predicted == lengths.numpy()).all()
        assert (found == expected[:, :width]).all()
        assert (expected[:, width:] == 1).all()
        np.testing.assert_allclose(found_scores, scores[:, :width], atol=1e-4)


def test_scores_of_the_longest_test_sentences(load):
    """The score of a long path is a large number, which rounds much."""
    files = find_model("demo")
    codec = make_codec(files)
    lines = sorted(read_lines(files.test_src), key=len)[-24:]
    tokens = batching.pad(codec.encode_lines(lines, 1)[0])
    model = load_checkpoint(files.checkpoint).model.eval()
    with torch.no_grad():
        expected, scores = (tensor.numpy() for tensor in model(torch.from_numpy(tokens)))
    found, found_scores, _ = translate(load(model), tokens, 2)
    width = found.shape[1]
    assert (found == expected[:, :width]).all()
    np.testing.assert_allclose(found_scores, scores[:, :width], rtol=0, atol=1e-4)


def test_a_large_batch_is_translated_as_its_parts_are(load):
    """A thread takes a large batch in groups of about a thousand tokens."""
    model = small().eval()
    generator = torch.Generator().manual_seed(6)
    tokens = random_source(400, 13, "right", model.config.src_vocab, generator).numpy()
    program = load(model)
    whole = translate(program, tokens, 2)
    parts = [translate(program, tokens[at : at + 50], 1) for at in range(0, len(tokens), 50)]
    for at, (found, scores, lengths) in zip(range(0, len(tokens), 50), parts, strict=True):
        rows, width = slice(at, at + 50), found.shape[1]
        assert (whole[0][rows, :width] == found).all()
        assert (whole[0][rows, width:] == 1).all()
        assert (whole[1][rows, :width] == scores).all()
        assert (whole[2][rows] == lengths).all()


def test_given_lengths_replace_the_predicted_ones(load):
    model = small().eval()
    tokens = sources(model, "right").numpy()
    program = load(model)
    wanted = np.array([3, 2, 9, 20, 5, 400, -3])
    found, _, predicted = translate(program, tokens, 2, wanted)
    assert ((found != 1).sum(1) == [3, 2, 9, 20, 5, 20, 2]).all()
    assert (predicted == translate(program, tokens, 1)[2]).all()


def test_a_network_as_wide_as_the_public_ones(load):
    """Products of several panels, heads of 31 channels and kernels longer than the sentences."""
    torch.manual_seed(1)
    sizes = {
        "encoder_embed_dim": 248,
        "encoder_ffn_embed_dim": 500,
        "encoder_kernel_size_list": (31,),
    }
    model = type(small())(
        one_pass(**sizes | {"decoder_kernel_size_list": (31,), "crf_beam_approx": 64})
    )
    tokens = sources(model, "right")
    with torch.no_grad():
        expected = model.eval()(tokens)[0].numpy()
    found = translate(load(model), tokens.numpy(), 2)[0]
    assert (found == expected[:, : found.shape[1]]).all()


def test_threads_share_the_products_of_one_sentence(load):
    """A batch with fewer sentences than threads gives the same sums as one thread."""
    # 13 tokens x 24 x 20,000: more operations than team.h asks for
    model = small(encoder_ffn_embed_dim=20_000, decoder_ffn_embed_dim=20_000)
    program, tokens = load(model), sources(model, "right").numpy()
    for batch in (1, 2):
        alone = translate(program, tokens[:batch], 1)
        for threads in (2, 3, 5, 100):
            shared = translate(program, tokens[:batch], threads)
            assert all(np.array_equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_all_padding_and_single_tokens_are_translated(load):
    tokens = np.full((3, 4), 1)
    tokens[1, 0], tokens[2, :2] = 2, (5, 2)
    found = search(load(network("dynamic")), tokens, SearchOptions(beam=2, max_len_b=5), 2)
    assert found.counts.all()
    assert (translate(load(small()), tokens, 2)[0][:, 0] >= 0).all()


def test_equal_weights_are_stored_once(tmp_path):
    model = of_architecture("transformer", 48, 48, share_all_embeddings=True)
    path = tmp_path / f"model{SUFFIX}"
    to_program(model).save(path)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert path.stat().st_size < 4 * parameters + 60_000  # the positions and the operators


def test_iterative_networks_are_refused():
    with pytest.raises(UserError, match="cmlm_transformer has no native form"):
        to_program(of_architecture("cmlm_transformer"))


def test_step_by_step_refuses_more_repeats(load):
    model = network("dynamic")
    options = SearchOptions(beam=1, no_repeat_ngram=2, max_len_b=5)
    with pytest.raises(ValueError, match="no_repeat_ngram"):
        search(load(model), sources(model, "right").numpy(), options, 1)
