"""Small random networks of fairseq, loaded from a checkpoint, give fairseq's numbers."""

import dataclasses
from pathlib import Path

import pytest
import torch

from train_model import fairseq_compat
from train_model.models.beam_search import SearchOptions, beam_search
from train_model.models.checkpoint import load_checkpoint
from train_model.models.incremental import IncrementalDecoder
from train_model.tests.fairseq_models import KERNELS, PRE_NORM, VOCAB, fairseq_model
from train_model.tests.step_by_step import incremental_logprobs, sentences

pytestmark = pytest.mark.fairseq
LIGHT = {"encoder_conv_type": "lightweight", "decoder_conv_type": "lightweight"}
LEARNED = {"encoder_learned_pos": True, "decoder_learned_pos": True}
NO_GLU = {"encoder_glu": False, "decoder_glu": False}
CASES = {
    "transformer": ("transformer", {}),
    "transformer pre-norm": ("transformer", PRE_NORM),
    "transformer pre-norm without a final norm": (
        "transformer",
        PRE_NORM | {"no_decoder_final_norm": True},
    ),
    "transformer of shared embeddings": ("transformer", {"share_all_embeddings": True}),
    "transformer with a shared projection": (
        "transformer",
        {"share_decoder_input_output_embed": True},
    ),
    "transformer of learned positions": ("transformer", LEARNED),
    "transformer without positions": ("transformer", {"no_token_positional_embeddings": True}),
    "transformer with normalised embeddings": ("transformer", {"layernorm_embedding": True}),
    "transformer without a scale": ("transformer", {"no_scale_embedding": True}),
    "transformer with a wide decoder": ("transformer", {"decoder_embed_dim": 48}),
    "transformer with gelu": ("transformer", {"activation_fn": "gelu"}),
    "transformer with gelu_accurate": ("transformer", {"activation_fn": "gelu_accurate"}),
    "transformer_iwslt_de_en": ("transformer_iwslt_de_en", {}),
    "lightconv": ("lightconv", KERNELS),
    "lightconv lightweight": ("lightconv", KERNELS | LIGHT),
    "lightconv without gates": ("lightconv_iwslt_de_en", KERNELS | NO_GLU),
    "lightconv lightweight without gates": ("lightconv", KERNELS | LIGHT | NO_GLU),
    "lightconv of even kernels": (
        "lightconv",
        {"encoder_kernel_size_list": [3, 5], "decoder_kernel_size_list": [2, 4]},
    ),
    "lightconv pre-norm": ("lightconv", KERNELS | PRE_NORM),
    "lightconv without softmax": ("lightconv", KERNELS | LIGHT | {"weight_softmax": False}),
    "lightconv of other widths": (
        "lightconv",
        KERNELS | {"encoder_conv_dim": 24, "decoder_conv_dim": 40},
    ),
    "lightconv of shared embeddings": ("lightconv", KERNELS | {"share_all_embeddings": True}),
    "lightconv of learned positions": ("lightconv", KERNELS | LEARNED),
}

ONE_PASS = {
    "nonautoregressive": ("nonautoregressive_transformer", {}),
    "nonautoregressive with copied embeddings": (
        "nonautoregressive_transformer",
        {"src_embedding_copy": True} | LEARNED,
    ),
    "nonautoregressive pre-norm, length as a difference": (
        "nonautoregressive_transformer",
        PRE_NORM | {"pred_length_offset": True, "share_all_embeddings": True},
    ),
    "nonautoregressive with gelu": (
        "nonautoregressive_transformer",
        {"activation_fn": "gelu", "share_decoder_input_output_embed": True},
    ),
    "nacrf": ("nacrf_transformer", {"crf_lowrank_approx": 4, "crf_beam_approx": 6}),
    "nacrf post-norm with copied embeddings": (
        "nacrf_transformer",
        {
            "crf_lowrank_approx": 4,
            "crf_beam_approx": 6,
            "encoder_normalize_before": False,
            "decoder_normalize_before": False,
            "src_embedding_copy": True,
        },
    ),
}

ITERATIVE = {
    "cmlm": ("cmlm_transformer", {"share_all_embeddings": False} | LEARNED),
    "cmlm pre-norm of shared embeddings": (
        "cmlm_transformer",
        PRE_NORM | {"share_all_embeddings": True, "pred_length_offset": True},
    ),
    "iterative": ("iterative_nonautoregressive_transformer", LEARNED),
    "iterative with gelu, length as a difference": (
        "iterative_nonautoregressive_transformer",
        {"activation_fn": "gelu", "pred_length_offset": True},
    ),
}


def both(case: tuple[str, dict], folder: Path):
    """Return fairseq's network, our network from its checkpoint, and the dictionary."""
    pytest.importorskip("fairseq_cli", reason="fairseq is not installed")
    fairseq_compat.prepare()
    theirs, args, dictionary = fairseq_model(*case)
    for name, value in theirs.state_dict().items():
        if name.endswith("_float_tensor"):  # memory that fairseq never writes
            value.fill_(float("nan"))
    torch.save({"args": args, "model": theirs.state_dict()}, folder / "checkpoint.pt")
    return theirs, load_checkpoint(folder / "checkpoint.pt").model, dictionary


@pytest.fixture(params=CASES, scope="module")
def pair(request, tmp_path_factory):
    return both(CASES[request.param], tmp_path_factory.mktemp("fairseq"))


@pytest.fixture(params=ONE_PASS, scope="module")
def one_pass(request, tmp_path_factory):
    return both(ONE_PASS[request.param], tmp_path_factory.mktemp("fairseq"))


@pytest.fixture(params=ITERATIVE, scope="module")
def iterative(request, tmp_path_factory):
    return both(ITERATIVE[request.param], tmp_path_factory.mktemp("fairseq"))


def batch(seed: int = 0) -> torch.Tensor:
    """Sources of different lengths, padded on the left as fairseq does by default."""
    rows = sentences([9, 5, 12, 7], vocab=VOCAB, seed=seed)
    lengths = rows.ne(1).sum(1)
    return torch.stack([row.roll(int(len(row) - n)) for row, n in zip(rows, lengths, strict=True)])


@torch.inference_mode()
def test_encoder_and_logits_are_fairseqs(pair):
    theirs, ours, _ = pair
    source, target = batch(), sentences([11, 6, 8, 10], vocab=VOCAB, seed=1)
    expected = theirs.encoder(source, src_lengths=source.ne(1).sum(1))
    encoded = expected["encoder_out"]
    encoded = (encoded if isinstance(encoded, torch.Tensor) else encoded[0]).transpose(0, 1)
    found = ours.encode(source)
    real = ~found.padding_mask
    torch.testing.assert_close(found.x[real], encoded[real], rtol=0, atol=1e-5)
    logits, _ = theirs.decoder(target, encoder_out=expected)
    real = target.ne(1)
    torch.testing.assert_close(ours.decode(target, found)[real], logits[real], rtol=0, atol=1e-5)
    logprobs = incremental_logprobs(ours, source, target)
    torch.testing.assert_close(logprobs[real], logits.log_softmax(-1)[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize("beam", [1, 5])
def test_hypotheses_are_fairseqs(pair, beam):
    from fairseq.sequence_generator import SequenceGenerator

    theirs, ours, dictionary = pair
    source = batch(seed=2)
    sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(1).sum(1)}}
    generator = SequenceGenerator([theirs], dictionary, beam_size=beam, max_len_b=20)
    expected = generator.generate([theirs], sample)
    options = SearchOptions(beam=beam, max_len_b=20)
    found = beam_search(IncrementalDecoder.of(ours), source, options)
    for sentence, hypotheses in zip(expected, found, strict=True):
        assert [h.tokens.tolist() for h in hypotheses] == [h["tokens"].tolist() for h in sentence]
        for mine, other in zip(hypotheses, sentence, strict=True):
            assert mine.score == pytest.approx(float(other["score"]), abs=1e-5)


@torch.inference_mode()
def test_one_pass_is_fairseqs(one_pass):
    """Encoder output, predicted lengths, scores of all tokens, and the translation of the whole pass."""
    theirs, ours, _ = one_pass
    source = batch()
    expected = theirs.encoder(source, src_lengths=source.ne(1).sum(1))
    found = ours.encode(source)
    real = ~found.padding_mask
    encoded = expected["encoder_out"][0].transpose(0, 1)
    torch.testing.assert_close(found.x[real], encoded[real], rtol=0, atol=1e-5)
    start = theirs.initialize_output_tokens(expected, source)
    canvas = start.output_tokens.clone()
    lengths = ours.predict_length(found)
    assert lengths.tolist() == canvas.ne(1).sum(1).tolist()
    assert canvas.shape[1] > 4
    assert ours.initial_canvas(lengths, canvas.shape[1]).equal(canvas)
    logits = theirs.decoder(
        normalize=False, prev_output_tokens=canvas, encoder_out=expected, step=0
    )
    real = canvas.ne(1)
    torch.testing.assert_close(ours.decode(canvas, found)[real], logits[real], rtol=0, atol=1e-5)
    decoded = theirs.forward_decoder(start, expected)
    tokens, scores = ours.choose(ours.decode(canvas, found), canvas)
    assert tokens.equal(decoded.output_tokens)
    torch.testing.assert_close(scores, decoded.output_scores, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_wider_canvas_changes_nothing_in_one_pass(one_pass):
    """A canvas of twice the source and one just wide enough give the same tokens."""
    _, ours, _ = one_pass
    source = batch(seed=3)
    encoded = ours.encode(source)
    lengths = ours.predict_length(encoded).clamp(max=2 * source.shape[1])
    canvas = ours.initial_canvas(lengths, int(lengths.max()))
    tokens, _ = ours.choose(ours.decode(canvas, encoded), canvas)
    whole, _ = ours(source)
    assert whole[:, : tokens.shape[1]].equal(tokens)
    assert whole[:, tokens.shape[1] :].eq(1).all()


@pytest.mark.parametrize("max_iter", [0, 1, 9])
def test_iterative_refinement_is_fairseqs(iterative, max_iter):
    """Tokens and scores after all passes; mask-predict always makes all of them."""
    from fairseq.iterative_refinement_generator import IterativeRefinementGenerator

    theirs, ours, dictionary = iterative
    source = batch(seed=4)
    is_cmlm = ours.config.architecture == "cmlm_transformer"
    generator = IterativeRefinementGenerator(
        dictionary, models=[theirs], max_iter=max_iter, adaptive=not is_cmlm
    )
    sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(1).sum(1)}}
    expected = [hypotheses[0] for hypotheses in generator.generate([theirs], sample)]
    assert len({tuple(hypothesis["tokens"].tolist()) for hypothesis in expected}) > 1
    ours.refinement = dataclasses.replace(ours.refinement, passes=max_iter + 1)
    for tokens, scores, theirs in zip(*ours(source), expected, strict=True):
        real = tokens.ne(1)
        assert tokens[real].tolist() == theirs["tokens"].tolist()
        torch.testing.assert_close(scores[real], theirs["positional_scores"], rtol=0, atol=1e-5)
