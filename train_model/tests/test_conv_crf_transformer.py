"""The network against tensors of the original code, and its promises about padding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train_model.data.dictionary import BOS, EOS, PAD, UNK
from train_model.models.checkpoint import load_checkpoint
from train_model.tests.networks import small

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def original():
    """The original's network, in FP64: in FP32 the last digits depend on how the processor adds."""
    return load_checkpoint(FIXTURES / "checkpoint_nat.pt").model.double()


@pytest.fixture(scope="module")
def reference():
    return np.load(FIXTURES / "nat_io.npz")


@pytest.mark.parametrize("batch", ["b0", "b1", "b3"])
@torch.no_grad()
def test_the_original_codes_numbers(original, reference, batch):
    def expected(name):
        return torch.from_numpy(reference[f"{batch}.{name}"])

    src_tokens = expected("src_tokens")
    source = original.encode(src_tokens)
    torch.testing.assert_close(source.x.float(), expected("encoder_out"), rtol=0, atol=2e-5)
    lengths = original.decoder.length_logits(source).log_softmax(-1).float()
    torch.testing.assert_close(lengths, expected("length_logprobs"), rtol=1e-6, atol=2e-5)
    assert original.predict_length(source).equal(expected("pred_lengths"))

    canvas = original.initial_canvas(original.predict_length(source), 2 * src_tokens.shape[1])
    assert canvas.equal(expected("canvas"))
    logits = original.decode(canvas, source)
    torch.testing.assert_close(logits.float(), expected("logits"), rtol=0, atol=2e-5)

    tokens, scores = original(src_tokens)
    stable = expected("tokens_stable_1e3")
    assert stable.float().mean() > 0.5
    assert tokens[stable].equal(expected("nat_tokens")[stable])
    torch.testing.assert_close(scores[stable], expected("nat_scores")[stable], rtol=0, atol=2e-4)


def test_training_losses_by_their_formulas(original, reference):
    """The sums of fairseq's nat_loss and DynamicCRF, written out one position at a time in float64."""
    src_tokens = torch.from_numpy(reference["b1.src_tokens"])
    tgt_tokens = torch.tensor([[0, 5, 9, 7, 2], [0, 8, 2, 1, 1], [0, 2, 1, 1, 1], [0, 4, 4, 2, 1]])
    canvas = torch.where((tgt_tokens > 3), UNK, tgt_tokens)
    with torch.no_grad():
        out = original.training_outputs(original.encode(src_tokens), canvas, tgt_tokens)
        logits, E1, E2 = (
            out["word_ins"]["out"],
            original.crf_layer.E1.weight,
            original.crf_layer.E2.weight,
        )
    losses = []
    for row, target in enumerate(tgt_tokens.tolist()):
        length = sum(token != PAD for token in target)
        beams = []
        for t in range(length):
            order = logits[row, t].argsort(descending=True).tolist()
            order.remove(target[t])
            beams.append([target[t], *order[: original.crf_layer.beam - 1]])
        path, paths = logits[row, 0, target[0]], logits[row, 0, beams[0]]
        for t in range(1, length):
            path = path + logits[row, t, target[t]] + E1[target[t - 1]] @ E2[target[t]]
            step = paths[:, None] + E1[beams[t - 1]] @ E2[beams[t]].T
            paths = step.logsumexp(0) + logits[row, t, beams[t]]
        losses.append((paths.logsumexp(0) - path) / length)
    torch.testing.assert_close(out["word_crf"]["loss"], torch.stack(losses).mean())
    assert out["length"]["tgt"].tolist() == [5, 3, 2, 4]
    factors = {"word": out["word_ins"]["factor"], "length": out["length"]["factor"]}
    assert factors == {"word": 0.5, "length": 0.1}


@settings(max_examples=30, deadline=None)
@given(st.data())
@torch.no_grad()
def test_masked_policy_gives_a_sentence_the_same_alone_and_in_any_batch(data):
    model = small()
    lengths = data.draw(st.lists(st.integers(1, 10), min_size=1, max_size=4))
    left = data.draw(st.booleans())
    rows = [torch.randint(4, 40, (length,)) for length in lengths]
    width = max(lengths) + data.draw(st.integers(0, 4))
    batch = torch.full((len(rows), width), PAD)
    for i, row in enumerate(rows):
        batch[i, width - len(row) :] = row if left else batch[i, width - len(row) :]
        batch[i, : len(row)] = batch[i, : len(row)] if left else row
    width_of_canvas = 20
    tokens, scores = decode(model, batch, width_of_canvas)
    for i, row in enumerate(rows):
        alone_tokens, alone_scores = decode(model, row[None], width_of_canvas)
        assert tokens[i].equal(alone_tokens[0])
        # a score is the difference of two path scores, each rounded at its own size
        rounding = 4 * torch.finfo(torch.float32).eps * alone_scores.cumsum(1).abs().max().item()
        torch.testing.assert_close(scores[i], alone_scores[0], rtol=0, atol=1e-5 + rounding)


def decode(model, src_tokens, width):
    source = model.encode(src_tokens)
    canvas = model.initial_canvas(model.predict_length(source), width)
    return model.choose(model.decode(canvas, source), canvas)


@torch.no_grad()
def test_masked_policy_bounds_a_length_by_the_sentences_own_source():
    model = small()
    torch.nn.init.zeros_(model.decoder.embed_length.weight)  # all classes alike: class 0, length 2
    torch.nn.init.ones_(model.encoder.layers[-1].layer_norms[1].bias)
    torch.nn.init.zeros_(model.encoder.layers[-1].layer_norms[1].weight)
    torch.nn.init.ones_(model.decoder.embed_length.weight[19])  # every sentence wants 19 tokens
    rows = torch.tensor([[5, 6, 7, 1, 1, 1, 1, 1, 1, 1], [5] * 10])
    assert model.predict_length(model.encode(rows)).tolist() == [6, 19]
    assert model.predict_length(model.encode(rows[:1, :3])).tolist() == [6]


@torch.no_grad()
def test_upstream_policy_leaks_padding_as_the_original_does():
    model = small(padding_policy="upstream")
    row = torch.tensor([[5, 6, 7, 8]])
    padded = torch.cat([row, torch.full((1, 3), PAD)], 1)
    difference = (model.encode(padded).x[:, :4] - model.encode(row).x).abs().max()
    assert difference > 1e-3


@torch.no_grad()
def test_a_wider_canvas_changes_nothing_at_the_real_positions():
    model = small()
    source = model.encode(torch.randint(4, 40, (5, 6)))
    lengths = torch.tensor([2, 3, 7, 9, 9])
    narrow, wide = (model.initial_canvas(lengths, width) for width in (9, 20))
    tokens, scores = model.choose(model.decode(narrow, source), narrow)
    wide_tokens, wide_scores = model.choose(model.decode(wide, source), wide)
    assert wide_tokens[:, :9].equal(tokens)
    assert wide_tokens[:, 9:].eq(PAD).all()
    torch.testing.assert_close(wide_scores[:, :9], scores, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [1, 2, 10, 11, 20])
def test_shapes_ends_and_rows_of_padding_only(batch, length):
    model = small()
    src_tokens = torch.randint(4, 40, (batch, length))
    src_tokens[-1] = PAD
    tokens, scores = model(src_tokens)
    assert tokens.shape == scores.shape == (batch, min(2 * length, 20))
    assert scores.isfinite().all()
    assert ((tokens == PAD) <= (scores == 0)).all()


def test_the_canvas_has_both_ends_and_keeps_within_its_width():
    canvas = small().initial_canvas(torch.tensor([2, 4, 99]), 5)
    assert canvas.tolist() == [
        [BOS, EOS, PAD, PAD, PAD],
        [BOS, UNK, UNK, EOS, PAD],
        [BOS, UNK, UNK, UNK, EOS],
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"encoder_conv_type": "lightweight", "decoder_conv_type": "lightweight"},
        {"conv_linear": False, "encoder_glu": False, "decoder_glu": False},
        {"encoder_learned_pos": False, "decoder_learned_pos": False},
        {"encoder_normalize_before": True, "decoder_normalize_before": True},
        {"share_all_embeddings": True},
        {"src_embedding_copy": False, "no_token_positional_embeddings": True},
        {"pred_length_offset": True, "sg_length_pred": True, "weight_softmax": False},
    ],
)
def test_every_option_trains_and_decodes(options):
    model = small(**options).train()
    src_tokens, tgt_tokens = torch.randint(4, 40, (2, 5)), torch.randint(4, 40, (2, 6))
    source = model.encode(src_tokens)
    out = model.training_outputs(source, torch.full_like(tgt_tokens, UNK), tgt_tokens)
    logits, lengths = out["word_ins"]["out"], out["length"]["out"]
    (out["word_crf"]["loss"] + logits.square().mean() + lengths.square().mean()).backward()
    gradients = [name for name, p in model.named_parameters() if p.grad is None]
    assert [name for name in gradients if "copy_attn" not in name] == []
    assert model.eval()(src_tokens)[0].shape == (2, 10)


def test_a_source_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="longer than the 20 positions"):
        small()(torch.full((1, 21), 5))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"padding_policy": "other"}, "padding_policy"),
        ({"encoder_kernel_size_list": (3, 5, 7), "encoder_layers": 4}, "kernel sizes"),
        ({"encoder_attention_heads": 5}, "heads"),
        ({"encoder_attention_heads": 0}, "0 heads"),
        ({"max_source_positions": 0}, "max_source_positions is 1 to"),
        ({"encoder_conv_type": "wide"}, "conv_type"),
        ({"share_all_embeddings": True, "tgt_vocab": 41}, "dictionary"),
    ],
)
def test_contradicting_options_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        small(**options)
