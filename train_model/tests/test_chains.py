"""Training computes some parts of the networks in another way than inference; both must agree."""

import contextlib

import pytest
import torch

from train_model.models import chains
from train_model.models.layers import MultiheadAttention

CHAINS = {
    "residual_norm": lambda x, y, w, b, mask: chains.residual_norm(x, y, w, b, 0.0),
    "add_dropout": lambda x, y, w, b, mask: chains.add_dropout(x, y, 0.0),
    "gate": lambda x, y, w, b, mask: chains.gate(x * w + y),
    "zero_padding": lambda x, y, w, b, mask: chains.zero_padding(x, mask),
}


def inputs(device, sentences, length):
    torch.manual_seed(length)
    shapes = [(sentences, length, 32)] * 2 + [(32,)] * 2
    tensors = [torch.randn(*shape, device=device).double().requires_grad_() for shape in shapes]
    return [*tensors, torch.rand(sentences, length, device=device) < 0.3]


def test_without_a_gpu_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_: pytest.fail("compiled"))
    given = inputs("cpu", 2, 5)
    for run in CHAINS.values():
        expected = run(*given)
        with chains.compiled_chains():
            assert torch.equal(run(*given), expected)


def test_chains_are_compiled_inside_of_the_context_only():
    with contextlib.suppress(KeyError), chains.compiled_chains():
        assert chains._compiling
        raise KeyError
    assert not chains._compiling


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("name", CHAINS)
def test_compiled_chains_have_the_values_and_gradients_of_plain_ones(name):
    for shape in ((3, 8), (5, 16), (2, 24)):  # the second one makes the sizes dynamic
        plain = inputs("cuda", *shape)
        given = [tensor.detach().float().requires_grad_() for tensor in plain[:4]] + plain[4:]
        with chains.compiled_chains():
            own = CHAINS[name](*given)
        expected = CHAINS[name](*plain)
        torch.testing.assert_close(own.double(), expected, rtol=1e-5, atol=1e-5)
        grad = torch.randn_like(expected)
        wanted = torch.autograd.grad(expected, plain[:4], grad, allow_unused=True)
        found = torch.autograd.grad(own, given[:4], grad.float(), allow_unused=True)
        for ours, theirs in zip(found, wanted, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


def test_dropout_is_that_of_the_rate():
    torch.manual_seed(0)
    dropped = chains.add_dropout(torch.ones(100, 100), torch.ones(100, 100), 0.25)
    assert 0.7 < (dropped != 0).float().mean() < 0.8
    assert dropped.unique().tolist() == pytest.approx([0, 2 / 0.75])


@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_training_is_that_of_inference(causal):
    torch.manual_seed(0)
    attention = MultiheadAttention(24, 3).double()
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    padding = torch.tensor([[False] * 5, [False, False, False, True, True]])
    results = []
    for training in (False, True):
        attention.train(training).zero_grad()
        y = attention.attend_to_itself(x, padding, causal)
        y.square().sum().backward()
        results.append([y, *(parameter.grad for parameter in attention.parameters())])
    for expected, own in zip(*results, strict=True):
        torch.testing.assert_close(own, expected)
