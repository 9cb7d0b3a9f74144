"""A CRF beyond the kernels' beam computes in PyTorch's own operators, with the same results."""

import re
from pathlib import Path

import pytest
import torch

from train_model.models.dynamic_crf import KERNEL_BEAM, DynamicCRF, fits_kernels

KERNELS = Path(__file__).parents[2] / "trt_code" / "kernels"


@pytest.mark.parametrize("name", ["top_k", "crf_normaliser", "crf_decode"])
def test_the_limit_is_the_kernels(name):
    header = (KERNELS / f"{name}.h").read_text()
    assert f"must be in 1..{KERNEL_BEAM}" in header
    assert re.search(rf"Max(K|Beam) = {KERNEL_BEAM};", header)


def test_a_beam_beyond_the_limit_has_no_kernel_on_a_gpu():
    assert fits_kernels("cuda", KERNEL_BEAM)
    assert not fits_kernels("cuda", KERNEL_BEAM + 1)
    assert fits_kernels("cpu", KERNEL_BEAM + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_forms_agree(dtype, monkeypatch):
    torch.manual_seed(0)
    crf = DynamicCRF(200, 8, KERNEL_BEAM + 6).to(dtype)
    emissions = torch.randn(3, 5, 200, dtype=dtype)
    targets, mask = torch.randint(200, (3, 5)), torch.ones(3, 5, dtype=torch.bool)
    mask[1, 3:] = False
    results = []
    for fits in (True, False):
        monkeypatch.setattr(crf, "_fits", lambda scores, fits=fits: fits)
        given = emissions.clone().requires_grad_()
        crf.zero_grad()
        likelihood = crf(given, targets, mask)
        likelihood.sum().backward()
        gradients = given.grad, crf.E1.weight.grad.clone(), crf.E2.weight.grad.clone()
        results.append((likelihood, *gradients, *crf.decode(emissions, mask)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
