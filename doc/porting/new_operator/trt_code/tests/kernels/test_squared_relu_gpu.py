"""The CUDA form of ``lite::squared_relu`` against its PyTorch form, bit for bit."""

import pytest
import torch

from train_model.ops.squared_relu import squared_relu

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (3, 7), (2, 5, 257), (0, 4)])
def test_kernel_is_the_definition(dtype, shape):
    x = torch.randn(shape).to(dtype)
    x.view(-1)[:2] = torch.tensor([torch.nan, torch.inf])[: x.numel()].to(dtype)
    torch.testing.assert_close(
        squared_relu(x.cuda(), 2.0).cpu(), squared_relu(x, 2.0), rtol=0, atol=0, equal_nan=True
    )
