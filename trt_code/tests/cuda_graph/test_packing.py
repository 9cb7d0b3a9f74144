"""A stream of packed weights, read as the kernel reads it, gives the layers' products."""

import pytest
import torch

from trt_code.cuda_graph.packing import MAX_TAPS, STAGE, TILE, LayerWeights, pack

HEADS, FFN = 4, 4 * 256
WIDTH = 64 * HEADS
KERNEL_SIZE = 5


class Reader:
    """Reads tiles of 64 outputs x 64 inputs from a stream and multiplies by them."""

    def __init__(self, stream: torch.Tensor) -> None:
        self.tiles = stream.unflatten(0, (-1, 8, TILE, 8))
        self.at = 0

    def tile(self) -> torch.Tensor:
        self.at += 1
        return self.tiles[self.at - 1].transpose(0, 1).flatten(1)

    def product(self, x: torch.Tensor, passes: int, pair: bool = True) -> torch.Tensor:
        """Multiply [B, inputs] by ``passes`` pairs of tiles, two tiles next to each other or one per pass."""
        outputs = []
        for _ in range(passes):
            sums = [torch.zeros(len(x), TILE)] * (1 + pair)
            for part in x.split(TILE, 1):
                sums = [total + part @ self.tile().T for total in sums]
            outputs += sums
        return torch.cat(outputs, 1)

    def gated(self, x: torch.Tensor) -> torch.Tensor:
        """Each warp of 16 rows has eight values, followed by their gates."""
        rows = self.product(x, 1).unflatten(1, (-1, 2, 8))
        return (rows[:, :, 0] * rows[:, :, 1].sigmoid()).flatten(1)

    def taps(self, x: torch.Tensor) -> torch.Tensor:
        """Fragments of mma.m16n8k16: lane 4 g + q has rows g, g + 8 and inputs 2q, 2q + 1, 2q + 8, 2q + 9."""
        stage = self.tiles[self.at : self.at + 2].flatten()
        self.at += 2
        weight = torch.zeros(MAX_TAPS, WIDTH)
        for index, value in enumerate(stage[: MAX_TAPS * WIDTH].tolist()):
            step, lane, register, element = (
                index // 256,
                index // 8 % 32,
                index // 2 % 4,
                index % 2,
            )
            row = lane // 4 + 8 * (register % 2)
            weight[row, 16 * step + 8 * (register // 2) + 2 * (lane % 4) + element] = value
        assert not stage[MAX_TAPS * WIDTH :].any()
        return x @ weight.T


def weights(attends: bool) -> LayerWeights:
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator)

    rows = 2 * WIDTH, 2 * WIDTH, HEADS * KERNEL_SIZE, WIDTH
    attention = [matrix(WIDTH, WIDTH) for _ in range(2)] if attends else []
    square = [matrix(n, WIDTH) for n in rows]
    return LayerWeights(*square, matrix(FFN, WIDTH), matrix(WIDTH, FFN), *attention)


@pytest.mark.parametrize("attends", [False, True])
def test_every_product_is_where_the_kernel_looks_for_it(attends):
    layer = weights(attends)
    streams = pack([layer, layer], HEADS)[1]
    assert streams.shape[1] % STAGE == 0
    x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))

    def close(actual: torch.Tensor, expected: torch.Tensor, head: int, dim: int = 1) -> None:
        own = expected.chunk(HEADS, dim)[head]
        torch.testing.assert_close(actual, own, rtol=1e-4, atol=1e-3)

    partial = torch.zeros(3, WIDTH)
    inner = torch.randn(3, FFN, generator=torch.Generator().manual_seed(2))
    for head, stream in enumerate(streams):
        reader = Reader(stream)
        for matrix in (layer.linear1, layer.conv_linear1):
            close(reader.gated(x), torch.nn.functional.glu(x @ matrix.T, -1), head)
        taps = reader.taps(x)
        close(taps[:, :KERNEL_SIZE], x @ layer.taps.T, head)
        assert not taps[:, KERNEL_SIZE:].any()
        for matrix in (layer.linear2, layer.query, layer.out):
            if matrix is not None:
                close(reader.product(x, 1, pair=False), x @ matrix.T, head)
        close(reader.product(x, FFN // HEADS // 128), x @ layer.fc1.T, head)
        partial += reader.product(inner.chunk(HEADS, 1)[head], HEADS // 2)
        assert reader.at == len(reader.tiles)
    torch.testing.assert_close(partial, inner @ layer.fc2.T, rtol=1e-4, atol=1e-3)
