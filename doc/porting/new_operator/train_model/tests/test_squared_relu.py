"""``lite::squared_relu`` against its definition."""

import pytest
import torch

from train_model.ops.squared_relu import squared_relu


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_definition(dtype):
    x = torch.tensor([-2.0, 0.0, 0.5, 3.0, torch.inf, torch.nan], dtype=dtype)
    expected = torch.tensor([0.0, 0.0, 0.25, 4.0, 4.0, torch.nan], dtype=dtype)
    torch.testing.assert_close(squared_relu(x, 4.0), expected, rtol=0, atol=0, equal_nan=True)
    torch.library.opcheck(squared_relu, (torch.randn(2, 3).to(dtype), 4.0))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="limit=0"):
        squared_relu(torch.zeros(2), 0.0)
    with pytest.raises(ValueError, match="must be floating"):
        squared_relu(torch.zeros(2, dtype=torch.int32), 1.0)
