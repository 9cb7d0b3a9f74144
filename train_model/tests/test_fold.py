"""Folding changes the work, not the result."""

import pytest
import torch

from train_model.models.fold import fold
from train_model.models.quantized import QuantizedLinear, replace_linears
from train_model.ops.fake_quantize import LARGEST, LEAST_SCALE
from train_model.tests.networks import small


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_policy": "upstream", "decoder_learned_pos": False},
        {"conv_linear": False, "src_embedding_copy": False},
        {"no_token_positional_embeddings": True},
    ],
)
@torch.no_grad()
def test_the_folded_network_gives_the_same(options):
    model = small(**options).double()
    src_tokens = torch.randint(4, 40, (6, 9))
    src_tokens[0, 4:] = src_tokens[1, :3] = 1
    folded = fold(model)
    source, folded_source = model.encode(src_tokens), folded.encode(src_tokens)
    canvas = model.initial_canvas(model.predict_length(source), 18)
    assert canvas.equal(folded.initial_canvas(folded.predict_length(folded_source), 18))
    logits, folded_logits = model.decode(canvas, source), folded.decode(canvas, folded_source)
    torch.testing.assert_close(folded_logits, logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("least", "is_folded"), [(1.0, False), (8.0, True)])
@torch.no_grad()
def test_a_scale_of_int8_stays_a_normal_number_of_fp16(least, is_folded):
    model = small().double()
    attention = model.decoder.layers[0].encoder_attn
    replace_linears(attention, ["q_proj"], QuantizedLinear)
    quantizer = attention.q_proj.double().weight_quantizer
    quantizer._amax.fill_(least * LEAST_SCALE * LARGEST)
    folded = fold(model).decoder.layers[0].encoder_attn
    assert (folded.scale == 1.0) == is_folded
    assert folded.q_proj.weight_quantizer.amax.min() >= LEAST_SCALE * LARGEST
    x = torch.rand(2, 3, attention.q_proj.in_features, dtype=torch.double)
    torch.testing.assert_close(
        folded.q_proj(x) * folded.scale, attention.q_proj(x) * attention.scale, rtol=1e-12, atol=0
    )


@torch.no_grad()
def test_folding_saves_parameters_and_leaves_the_original_alone():
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold(model)
    assert folded.decoder.layers[0].conv.linear2 is None
    assert folded.decoder.layers[0].encoder_attn.k_proj is None
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="folded already"):
        fold(folded)
