"""Do INT8 matrix products pay on this GPU? The network's own shapes, FP16 against INT8.

    python -m trt_code.bench_int8_gemm --rows 512,1024

One line a product: FP16 with its bias (``linear``, what the CUDA-graph runner has); INT8 to INT32 with
nothing around it (``torch._int_mm``, cuBLASLt), which is a bound from below for anything made of it;
INT8 with the scales and the rounding to FP16 in the same kernel (Triton), which takes its input from a
kernel before it that would have to write INT8; and that with the rounding of an FP16 input in a kernel
of its own. Every form is checked before it is timed. Times are of a CUDA graph of many calls.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from train_model.cli import UserError, run

# (name, K, N, how often at every row of the decoder's canvas) of the public architecture
PRODUCTS = (
    ("linear1, conv.linear1", 512, 1024, 12),
    ("linear2, q_proj, out_proj", 512, 512, 18),
    ("fc1", 512, 2048, 6),
    ("fc2", 2048, 512, 6),
    ("output_projection", 512, 32768, 1),
)
_CALLS, _REPEATS = 20, 15


def milliseconds(call: Callable[[], object]) -> float:
    """The median time of one call in a CUDA graph of many."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_CALLS):
            call()
    times = []
    for _ in range(_REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / _CALLS)
    return statistics.median(times)


def _kernels():
    """The Triton kernels, made at the first use, since a machine without a GPU has no Triton."""
    import triton
    import triton.language as tl

    def config(m: int, n: int, k: int, warps: int, stages: int) -> triton.Config:
        return triton.Config({"BM": m, "BN": n, "BK": k}, num_warps=warps, num_stages=stages)

    @triton.autotune(
        [
            config(128, 128, 128, 8, 3),
            config(128, 256, 64, 8, 4),
            config(64, 128, 128, 4, 4),
            config(64, 64, 128, 4, 4),
            config(128, 64, 128, 4, 4),
        ],
        key=["M", "N", "K"],
    )
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
        tl.store(y + rows[:, None] * N + columns[None], result.to(tl.float16), mask=inside)

    @triton.jit
    def quantize(x, y, scale, size, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(x + at, mask=at < size).to(tl.float32) * scale
        value = tl.floor(tl.minimum(tl.maximum(value, -127.0), 127.0) + 0.5)
        tl.store(y + at, value.to(tl.int8), mask=at < size)

    def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, y: Tensor) -> Tensor:
        (m, k), n = x.shape, weight.shape[0]
        grid = lambda meta: (triton.cdiv(m, meta["BM"]), triton.cdiv(n, meta["BN"]))  # noqa: E731
        gemm[grid](x, weight, scale, bias, y, m, n, k)
        return y

    def round_input(x: Tensor, scale: float, y: Tensor) -> Tensor:
        quantize[(triton.cdiv(x.numel(), 1024),)](x, y, 1 / scale, x.numel(), BLOCK=1024)
        return y

    return int8_linear, round_input


def measure(rows: int, k: int, n: int) -> dict[str, float]:
    """Milliseconds of every form of one product [rows, k] x [k, n].

    Raises:
        RuntimeError: a form gives something else than the product of the same INT8 numbers.
    """
    int8_linear, round_input = _kernels()
    x = torch.randn(rows, k, device="cuda", dtype=torch.float16)
    weight = torch.randn(n, k, device="cuda", dtype=torch.float16) * k**-0.5
    bias = torch.randn(n, device="cuda", dtype=torch.float16)
    x_scale = x.abs().max().item() / 127
    w_scale = weight.abs().amax(1).float() / 127
    weight8 = (weight / w_scale[:, None]).round().to(torch.int8)
    x8, y = torch.empty_like(x, dtype=torch.int8), x.new_empty(rows, n)
    scale = w_scale * x_scale
    round_input(x, x_scale, x8)
    expected = (x8.double() @ weight8.double().t()) * scale.double() + bias.double()
    got = int8_linear(x8, weight8, scale, bias, y).double()
    exact = torch.equal(torch._int_mm(x8, weight8.t()).double(), x8.double() @ weight8.double().t())
    if not exact or not torch.allclose(got, expected, rtol=1e-3, atol=1e-3):
        raise RuntimeError(f"{rows}x{k}x{n}: the INT8 product is wrong")

    def with_rounding() -> None:
        int8_linear(round_input(x, x_scale, x8), weight8, scale, bias, y)

    return {
        "fp16": milliseconds(lambda: torch.nn.functional.linear(x, weight, bias)),
        "int_mm": milliseconds(lambda: torch._int_mm(x8, weight8.t())),
        "fused": milliseconds(lambda: int8_linear(x8, weight8, scale, bias, y)),
        "rounded": milliseconds(with_rounding),
    }


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", default="512,1024,2048", help="batch x canvas, comma-separated (512,1024,2048)"
    )
    options = parser.parse_args(argv)
    try:
        sizes = [int(size) for size in options.rows.split(",")]
    except ValueError:
        raise UserError(
            f"--rows {options.rows!r} is no list of numbers, such as 512,1024"
        ) from None
    if not torch.cuda.is_available():
        raise UserError("INT8 products are measured on a CUDA GPU, and there is none (make doctor)")
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}; milliseconds a call\n")
    names = ("fp16", "int_mm", "fused", "rounded")
    print(f"{'rows':>6}{'K':>6}{'N':>7}" + "".join(f"{name:>10}" for name in names) + "  product")
    for rows in sizes:
        sums = dict.fromkeys(names, 0.0)
        for name, k, n, count in PRODUCTS:
            times = measure(rows, k, n)
            cells = "".join(f"{times[name]:>10.4f}" for name in names)
            print(f"{rows:>6}{k:>6}{n:>7}{cells}  {count} x {name}", flush=True)
            for form, time in times.items():
                sums[form] += count * time
        cells = "".join(f"{sums[name]:>10.4f}" for name in names)
        print(f"{rows:>6}{'':13}{cells}  all of the decoder\n", flush=True)


if __name__ == "__main__":
    run(main)
