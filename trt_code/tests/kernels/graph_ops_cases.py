"""Cases of the operators around the convolutions."""

import torch

ALL = [torch.float32, torch.float16, torch.bfloat16]


def tensors(dtype, *shapes, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    return [torch.randn(shape, device="cuda", generator=generator).to(dtype) for shape in shapes]


def widen(value):
    return (
        value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
    )


def mask_of(lengths, width):
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).int().cuda()
