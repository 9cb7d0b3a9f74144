"""Times INT8 against FP16 matrix products on this GPU, with the shapes of the full-size network.

    python -m trt_code.measure.int8_gemm --shape 1x32,16x32,64x64

A shape is sentences x source tokens; the decoder's canvas is twice the source. One line per product:

- ``fp16``: product and bias as the CUDA-graph runner computes them (``lite::linear``, cuBLASLt's
  fastest algorithm for the shape; PyTorch's ``linear`` where the library is not built);
- ``int_mm``: INT8 to INT32 without scales and bias (``torch._int_mm``, cuBLASLt), a lower bound for every
form with cuBLASLt;
- ``fused``: INT8 with scales, bias and the rounding to FP16 in one kernel (Triton, the fastest of its
  tiles), for an input that the previous kernel has written as INT8;
- ``rounded``: ``fused`` after a kernel that rounds an FP16 input to INT8.

Every form of every product, and every tile, is checked against the exact product before it is timed. Times
are of a CUDA graph of many calls; ``--check`` stops after the checks.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from train_model.cli import Parser, UserError, first_line, path_argument, run
from train_model.ops.cuda_library import load_cuda_library
from train_model.tables import Column, Table, as_json, write_files
from trt_code import arguments
from trt_code.measure.machine import describe
from trt_code.runners.timing import device_ms, graph_ms

FORMS = ("fp16", "int_mm", "fused", "rounded")
_CALLS, _REPEATS = 20, 9
_PEAK_SECONDS = 0.02  # limits the number of calls of a slow form


@dataclasses.dataclass(frozen=True)
class Product:
    """``count`` products [rows, k] x [k, n] in one translation of a batch."""

    name: str
    k: int
    n: int
    count: int


# The architecture of the public checkpoint, projections merged as inference has them. The taps'
# projection (24 to 120 columns) is left out: the convolution's kernel hides its cost.
_GATED = Product("linear1, conv.linear1", 512, 1024, 12)
_FEED_FORWARD = (Product("fc1", 512, 2048, 6), Product("fc2", 2048, 512, 6))
ENCODER = (
    _GATED,
    Product("linear2", 512, 512, 6),
    *_FEED_FORWARD,
    Product("keys and values of all layers", 512, 6144, 1),
)
DECODER = (
    _GATED,
    Product("linear2, q_proj, out_proj", 512, 512, 18),
    *_FEED_FORWARD,
    Product("output_projection", 512, 32768, 1),
)


def milliseconds(call: Callable[[], object]) -> float:
    """Return the median time of one call in a CUDA graph of many."""
    estimate = device_ms(call, 3)[-1]
    calls = max(3, min(_CALLS, int(1e3 * _PEAK_SECONDS / max(estimate, 1e-3))))
    return graph_ms([call] * calls, _REPEATS)


class Int8Kernels:
    """Define the Triton kernels at the first use, since a machine without a GPU has no Triton."""

    # rows, columns and depth of a tile, warps, stages of its pipeline
    TILES = (
        (128, 128, 128, 8, 3),
        (128, 256, 64, 8, 4),
        (64, 128, 128, 4, 4),
        (64, 64, 128, 4, 4),
        (32, 64, 256, 4, 3),
        (16, 64, 256, 4, 3),
    )

    def __init__(self) -> None:
        import triton
        import triton.language as tl

        @triton.jit
        def gemm(
            x,
            w,
            scale,
            bias,
            y,
            M,
            N,
            K,
            BM: tl.constexpr,
            BN: tl.constexpr,
            BK: tl.constexpr,
        ):
            rows = tl.program_id(0) * BM + tl.arange(0, BM)
            columns = tl.program_id(1) * BN + tl.arange(0, BN)
            inner = tl.arange(0, BK)
            total = tl.zeros((BM, BN), tl.int32)
            at_x = x + (rows % M)[:, None] * K + inner[None]
            at_w = w + (columns % N)[None] * K + inner[:, None]
            for _ in range(0, K, BK):
                total += tl.dot(tl.load(at_x), tl.load(at_w))
                at_x += BK
                at_w += BK
            result = total.to(tl.float32) * tl.load(scale + columns % N)[None]
            result += tl.load(bias + columns % N)[None].to(tl.float32)
            inside = (rows < M)[:, None] & (columns < N)[None]
            at_y = y + rows[:, None].to(tl.int64) * N + columns[None]
            tl.store(at_y, result.to(tl.float16), mask=inside)

        @triton.jit
        def quantize(x, y, scale, size, BLOCK: tl.constexpr):
            at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
            value = tl.load(x + at, mask=at < size).to(tl.float32) * scale
            value = tl.floor(tl.minimum(tl.maximum(value, -127.0), 127.0) + 0.5)
            tl.store(y + at, value.to(tl.int8), mask=at < size)

        self._gemm, self._quantize, self._ceil = gemm, quantize, triton.cdiv

    def linear(
        self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, y: Tensor, tile: tuple
    ) -> Tensor:
        """``y`` [M, N] FP16 = (x [M, K] INT8) @ (weight [N, K] INT8)^T * scale [N] FP32 + bias [N] FP16.

        K is a multiple of the tile's depth.
        """
        (m, k), n = x.shape, weight.shape[0]
        bm, bn, bk, warps, stages = tile
        grid = (self._ceil(m, bm), self._ceil(n, bn))
        sizes = {"BM": bm, "BN": bn, "BK": bk, "num_warps": warps, "num_stages": stages}
        self._gemm[grid](x, weight, scale, bias, y, m, n, k, **sizes)
        return y

    def quantize(self, x: Tensor, scale: float, y: Tensor) -> Tensor:
        """``y`` INT8 = ``x`` FP16 / scale, to the nearest."""
        grid = (self._ceil(x.numel(), 1024),)
        self._quantize[grid](x, y, 1 / scale, x.numel(), BLOCK=1024)
        return y


@functools.cache
def _kernels() -> Int8Kernels:
    return Int8Kernels()


class ProductForms:
    """One product with random numbers: its forms, each as a call without arguments."""

    def __init__(self, rows: int, product: Product) -> None:
        self.kernels, k, n = _kernels(), product.k, product.n
        self.shape = f"{rows}x{k}x{n}"
        self.x = torch.randn(rows, k, device="cuda", dtype=torch.float16)
        self.weight = torch.randn(n, k, device="cuda", dtype=torch.float16) * k**-0.5
        self.bias = torch.randn(n, device="cuda", dtype=torch.float16)
        self.x_scale = self.x.abs().max().item() / 127
        w_scale = self.weight.abs().amax(1).float() / 127
        self.scale = w_scale * self.x_scale
        self.weight8 = (self.weight / w_scale[:, None]).round().to(torch.int8)
        self.x8 = torch.empty_like(self.x, dtype=torch.int8)
        self.y = self.x.new_empty(rows, n)
        self.tiles = [tile for tile in Int8Kernels.TILES if tile[0] <= max(16, rows)]

    def fp16(self) -> Tensor:
        if hasattr(torch.ops.lite, "linear"):
            return torch.ops.lite.linear(self.x, self.weight, self.bias, None, False, False)
        return torch.nn.functional.linear(self.x, self.weight, self.bias)

    def int_mm(self) -> Tensor:
        return torch._int_mm(self.x8, self.weight8.t())

    def fused(self, tile: tuple) -> Tensor:
        return self.kernels.linear(self.x8, self.weight8, self.scale, self.bias, self.y, tile)

    def rounded(self, tile: tuple) -> Tensor:
        self.kernels.quantize(self.x, self.x_scale, self.x8)
        return self.fused(tile)

    def check(self) -> None:
        """Check every form against the exact product.

        Sums of INT8 products are whole numbers that FP64 holds exactly, whatever the order.

        Raises:
            UserError: the result of a form is wrong.
        """
        self.kernels.quantize(self.x, self.x_scale, self.x8)
        rounded = (self.x.float() / self.x_scale).clamp(-127, 127).round()
        # a tie, or a quotient within a last bit of one, may round to either side
        self._demand("quantize", (self.x8.float() - rounded).abs().max().item() <= 1)
        self._demand("quantize", (self.x8.float() != rounded).float().mean().item() < 1e-3)
        exact = self.x8.double() @ self.weight8.double().t()
        self._demand("int_mm", torch.equal(self.int_mm().double(), exact))
        scaled = exact * self.scale.double() + self.bias.double()
        full = self.x.double() @ self.weight.double().t() + self.bias.double()
        for tile in self.tiles:
            close = torch.allclose(self._poisoned(tile), scaled, rtol=2e-3, atol=2e-3)
            self._demand(f"tile {tile}", close)
            # small whole numbers without a scale: FP16 then has to hold the rounded exact sums
            few = [tensor.remainder(4) - 2 for tensor in (self.x8, self.weight8)]
            one, none = torch.ones_like(self.scale), torch.zeros_like(self.bias)
            expected = (few[0].double() @ few[1].double().t()).half()
            got = self.kernels.linear(*few, one, none, self.y.fill_(float("nan")), tile)
            self._demand(f"tile {tile} in whole numbers", torch.equal(got, expected))
        self._demand("fp16", torch.allclose(self.fp16().double(), full, rtol=4e-3, atol=2e-2))
        error = (scaled - full).norm() / full.norm()
        self._demand("the rounding to INT8", error.item() < 0.05)

    def _poisoned(self, tile: tuple) -> Tensor:
        self.y.fill_(float("nan"))
        return self.fused(tile).double()

    def _demand(self, form: str, holds: bool) -> None:
        if not holds:
            raise UserError(f"{self.shape}: {form} does not give the exact product")

    def times(self) -> dict[str, Any]:
        """Return the milliseconds of every form, and the fastest tile."""
        self.kernels.quantize(self.x, self.x_scale, self.x8)
        fused = {tile: milliseconds(lambda tile=tile: self.fused(tile)) for tile in self.tiles}
        best = min(fused, key=fused.get)
        return {
            "fp16": milliseconds(self.fp16),
            "int_mm": milliseconds(self.int_mm),
            "fused": fused[best],
            "rounded": milliseconds(lambda: self.rounded(best)),
            "tile": best,
        }


def measure(batch: int, length: int) -> dict[str, Any]:
    """Measure both halves at one size: one row per product, and the sums over all products."""
    rows, sums = [], dict.fromkeys(FORMS, 0.0)
    for half, count, products in (
        ("encoder", batch * length, ENCODER),
        ("decoder", 2 * batch * length, DECODER),
    ):
        for product in products:
            times = ProductForms(count, product).times()
            row = {"half": half, "rows": count, **dataclasses.asdict(product), **times}
            print(TABLE.line(row | {"product": f"{product.count} x {product.name}"}), flush=True)
            rows.append(row)
            for form in FORMS:
                sums[form] += product.count * times[form]
    print(TABLE.line(dict.fromkeys(("half", "rows", "k", "n"), "") | {"product": "all", **sums}))
    return {"size": f"{batch}x{length}", "products": rows, "all": sums}


TABLE = Table(
    [
        Column("half", "half", width=9, left=True),
        Column("rows", "rows", width=6),
        Column("K", "k", width=6),
        Column("N", "n", width=7),
        *(Column(form, form, ".4f", 10) for form in FORMS),
        Column("  product", lambda row: f"  {row['product']}", left=True),
    ]
)


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(prog="python -m trt_code.measure.int8_gemm", description=first_line(__doc__))
    arguments.add_shapes(parser, "--shape", "1x32,16x32,64x64")
    parser.add_argument("--check", action="store_true", help="check every form, time nothing")
    parser.add_argument("--output", type=path_argument, help="also write the times as JSON")
    args = parser.parse_args(argv)
    if any(batch * length <= 16 for batch, length in args.shape):
        raise UserError("--shape: cuBLASLt's INT8 products need more than 16 rows, batch x length")
    if not torch.cuda.is_available():
        raise UserError("INT8 products are measured on a CUDA GPU, and there is none (make doctor)")
    load_cuda_library()
    torch.manual_seed(1)
    checked = 0
    for batch, length in args.shape:
        for rows, products in ((batch * length, ENCODER), (2 * batch * length, DECODER)):
            for product in products:
                ProductForms(rows, product).check()
                checked += 1
    own = "lite::linear" if hasattr(torch.ops.lite, "linear") else "torch.nn.functional.linear"
    print(f"{checked} products: every form gives the exact sums; FP16 is {own}")
    if args.check:
        return
    machine = describe("cuda", 1)
    print(f"{machine['gpu']}; milliseconds a call\n\n{TABLE.head()}")
    measured = [measure(*shape) for shape in args.shape]
    if args.output:
        results = {"machine": machine, "fp16": own, "sizes": measured}
        write_files(args.output.parent, {args.output.name: as_json(results)})
        print(f"wrote {args.output}")


if __name__ == "__main__":
    run(main)
