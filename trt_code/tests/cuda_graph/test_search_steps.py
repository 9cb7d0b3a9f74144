"""The fused steps' wiring on the CPU (their operators written out), against PyTorch's search."""

import numpy as np
import pytest
import torch

from train_model.models.beam_search import search
from train_model.models.hypotheses import SearchOptions
from train_model.models.incremental import IncrementalDecoder
from train_model.tests.networks import of_architecture
from trt_code.cuda_graph.search_steps import FusedSearch, FusedSteps, search_fits, why_not
from trt_code.runners.search.graphed_search import GraphedSearch, without_capture
from trt_code.tests.kernels import reference_ops


@pytest.fixture(scope="module", autouse=True)
def operators():
    library = reference_ops.register()
    yield
    library._destroy()


def fused(model) -> GraphedSearch:
    steps = FusedSteps(model, torch.float32)
    return GraphedSearch(
        lambda: steps.encode,
        lambda beam: steps,
        steps.new_state,
        model.config.tgt_vocab,
        model.config.max_target_positions,
        without_capture,
        0 if model.config.padding_leaks else model.config.max_source_positions,
        search=FusedSearch,
    )


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("transformer_multibranch_v2", {"conv_linear": True}),
        (
            "transformer_multibranch_v2",
            {"conv_linear": True, "decoder_glu": False, "weight_softmax": False},
        ),
        ("transformer", {"activation_fn": "relu"}),
        ("transformer", {"decoder_normalize_before": True, "layernorm_embedding": True}),
        ("transformer", {"no_token_positional_embeddings": True}),
    ],
)
@pytest.mark.parametrize("beam", [1, 3])
@torch.no_grad()
def test_the_fused_search_is_the_search(architecture, changes, beam):
    model = of_architecture(architecture, **changes).eval()
    assert why_not(model, torch.float32) is None
    src_tokens = torch.randint(4, 40, (5, 9), generator=torch.manual_seed(beam))
    src_tokens[0, 4:], src_tokens[1, 7:] = 1, 1
    ours, decoder = fused(model), IncrementalDecoder.of(model)
    # the second search reuses the memory of the first; the third is longer than the state's first room
    for options in (
        SearchOptions(beam=beam, max_len_a=0, max_len_b=12),
        SearchOptions(beam=beam, max_len_a=0, max_len_b=12),
        SearchOptions(beam=beam, max_len_a=0, max_len_b=44, min_len=36, unk_penalty=1.0),
    ):
        src_tokens = src_tokens.flip(0)
        found, expected = ours(src_tokens, options), search(decoder, src_tokens, options)
        np.testing.assert_array_equal(found.counts, expected.counts)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def _convolution(width, kernel_size, heads):
    """The options of a decoder with this convolution."""
    branches = f"attn:1:{32 - width}:2", f"dynamic:{kernel_size}:{width}:{heads}"
    return {"conv_linear": True, "decoder_branch_type": branches}


@pytest.mark.parametrize(
    ("architecture", "changes", "reason"),
    [
        ("lightconv", {}, "branches"),
        ("transformer", {"activation_fn": "gelu"}, "ReLU"),
        ("transformer_multibranch_v2", {}, "inner linears"),
        ("transformer", {"max_target_positions": 4096}, "positions"),
        ("transformer_multibranch_v2", _convolution(12, 3, 4), "16 bytes"),
        ("transformer_multibranch_v2", _convolution(16, 3000, 8), "96 KiB"),
    ],
)
def test_other_networks_keep_pytorch_steps(architecture, changes, reason):
    assert reason in why_not(of_architecture(architecture, **changes), torch.float16)


@pytest.mark.parametrize(
    ("beam", "vocab", "fits"), [(16, 33, True), (17, 99, False), (4, 8, False)]
)
def test_other_beams_and_vocabularies_keep_pytorchs_search(beam, vocab, fits):
    assert search_fits(beam, vocab, torch.float32) == fits
