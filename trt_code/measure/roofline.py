"""How near kernels and networks come to what the GPU can do: a roofline.

    python -m trt_code.measure.kernels --no-compile --output build/bench/kernels
    python -m trt_code.measure.sweep --model wmt16-random
    python -m trt_code.measure.roofline --kernels build/bench/kernels.json --sweep build/sweep/results.json

The ceilings are measured in the same run, on random numbers: a copy of 1 GiB, and a product of matrices of
8192 x 8192 by cuBLAS in each precision. ``--ceilings`` takes them from an earlier ``roofline.json``, and
then no GPU is needed. A point's work is its multiplications and additions; its bytes are the fewest that
must move: each input and weight read once, each output written once. Writes ``roofline.json`` and ``.png``.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import train_model.model_stats  # noqa: F401  teaches the counter the project's operators
from train_model.cli import Parser, UserError, atomic_path, run
from train_model.models.checkpoint import load_checkpoint
from train_model.models.zoo import model_files
from trt_code import arguments
from trt_code.measure.kernels import (
    BEAM,
    CHANNELS,
    HEADS,
    KERNEL,
    MOST_LOGIT_ROWS,
    RANK,
    SHAPES,
    VOCAB,
    copy_bandwidth,
    device_time,
)
from trt_code.measure.machine import describe, processors

SIZE = 8192
PRECISIONS = {"fp16": torch.float16, "tf32": torch.float32, "fp32": torch.float32}
WEIGHT_BYTES = {"fp16": 2, "bf16": 2, "tf32": 4, "fp32": 4}


def ceilings() -> dict[str, Any]:
    """Bytes a second of a copy, and operations a second of a large product in each precision."""
    result: dict[str, Any] = {"bytes_per_s": copy_bandwidth(), "operations_per_s": {}}
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    for name, dtype in PRECISIONS.items():
        matmul.fp32_precision = "tf32" if name == "tf32" else "ieee"
        a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        microseconds = device_time(lambda a, b, out: torch.mm(a, b, out=out), [[a, b, out]], 3)
        result["operations_per_s"][name] = 2 * SIZE**3 / microseconds * 1e6
    matmul.fp32_precision = before
    return result


def kernel_operations(op: str, shape: str) -> float:
    """Multiplications, additions, comparisons and exponentials of one call of ``bench_kernels``."""
    batch, length = SHAPES[shape]
    positions = batch * length
    taps = positions * HEADS * KERNEL
    convolution = 2 * positions * CHANNELS * KERNEL
    gate = 4 * positions * CHANNELS
    return {
        "dynamic_conv": convolution,
        "dynamic_conv_fused": convolution + 4 * taps,
        "glu_mask": gate,
        "layer_norm": 8 * positions * CHANNELS,
        "top_k": min(positions, MOST_LOGIT_ROWS) * VOCAB,
        "crf_decode": (positions - batch) * BEAM * BEAM * (2 * RANK + 2),
    }[op]


def kernel_points(measured: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A point for each row of bench_kernels' JSON."""
    for row in measured["rows"]:
        if "kernel_us" not in row:
            continue
        operations = kernel_operations(row["op"], row["shape"])
        yield {
            "kind": "kernel",
            "name": row["op"],
            "shape": row["shape"],
            "precision": row["dtype"],
            "operations": operations,
            "bytes": row["moved_bytes"],
            "seconds": row["kernel_us"] / 1e6,
        }


def network_points(measured: dict[str, Any], build_dir: str) -> Iterator[dict[str, Any]]:
    """A point for each timed row of a sweep; the runners that cut the canvas do less and are left out."""
    model = load_checkpoint(model_files(measured["model"], build_dir).checkpoint).model
    model = model.eval().to("meta")
    weights = sum(p.numel() for p in model.parameters())
    counted: dict[tuple[int, int], int] = {}
    for row in measured["rows"]:
        if not row["lt"] or row["runner"] in ("cuda-graph", "ort-split", "trt-split"):
            continue
        shape = row["bs"], row["sl"]
        if shape not in counted:
            with FlopCounterMode(display=False) as counter, torch.inference_mode():
                model(torch.empty(shape, dtype=torch.long, device="meta"))
            counted[shape] = counter.get_total_flops()
        yield {
            "kind": "network",
            "name": row["runner"],
            "shape": f"{shape[0]}x{shape[1]}",
            "precision": row["precision"],
            "operations": counted[shape],
            "bytes": weights * WEIGHT_BYTES[row["precision"]],
            "seconds": row["lt"] / 1e3,
        }


def plot(results: dict[str, Any], path: Path) -> None:
    """Operations a second by operations a byte, below the ceilings, as a PNG at ``path``."""
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 5.6), layout="constrained")
    bandwidth = results["ceilings"]["bytes_per_s"]
    intensity = np.geomspace(0.05, 1e5, 200)
    for name, most in results["ceilings"]["operations_per_s"].items():
        reach = np.minimum(most, bandwidth * intensity)
        axis.plot(intensity, reach, color="0.6", linewidth=1)
        axis.text(1e5, most * 1.06, f"cuBLAS {name}", ha="right", color="0.4", fontsize="small")
    axis.text(
        0.06, bandwidth * 0.09, f"copy, {bandwidth / 1e12:.2f} TB/s", color="0.4", fontsize="small"
    )
    points = results["points"]
    names = list(dict.fromkeys((p["kind"], p["name"], p["precision"]) for p in points))
    colours = pyplot.get_cmap("tab20").colors
    for index, key in enumerate(names):
        own = [p for p in points if (p["kind"], p["name"], p["precision"]) == key]
        axis.scatter(
            [p["operations"] / p["bytes"] for p in own],
            [p["operations"] / p["seconds"] for p in own],
            s=22,
            marker="o" if key[0] == "kernel" else "^",
            color=colours[index % 20],
            label=f"{key[1]} {key[2]}",
        )
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="operations a byte that must move",
        ylabel="operations/s",
    )
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize="x-small")
    machine = results["machine"]
    figure.suptitle(
        f"kernels (dots) and networks (triangles) on {machine.get('gpu', machine['cpu'])}",
        fontsize="medium",
    )
    figure.savefig(path, dpi=130, format="png")
    pyplot.close(figure)


def _read(path: Path, remedy: str) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no {path}; {remedy}") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON; {remedy}") from error


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m trt_code.measure.roofline", description=__doc__)
    parser.add_argument("--kernels", type=Path, help="JSON file of trt_code.measure.kernels")
    parser.add_argument("--sweep", type=Path, help="JSON file of trt_code.measure.sweep")
    parser.add_argument("--ceilings", type=Path, help="a roofline.json to take the ceilings from")
    arguments.add_build_dir(parser)
    arguments.add_output(parser, "build/roofline")
    args = parser.parse_args(argv)
    if args.ceilings:
        earlier = _read(args.ceilings, "measure on a GPU without --ceilings")
        results = {name: earlier[name] for name in ("machine", "ceilings")}
    elif torch.cuda.is_available():
        results = {"machine": describe("cuda", processors()), "ceilings": ceilings()}
    else:
        raise UserError("no CUDA GPU to measure the ceilings on; give an earlier --ceilings file")
    points: list[dict[str, Any]] = []
    try:
        if args.kernels:
            remedy = "run `python -m trt_code.measure.kernels`"
            points += kernel_points(_read(args.kernels, remedy))
        if args.sweep:
            remedy = "run `make sweep`"
            points += network_points(_read(args.sweep, remedy), args.build_dir)
    except (KeyError, TypeError) as error:
        raise UserError(f"a file has not what its tool writes ({error}); {remedy}") from error
    results["points"] = points
    with atomic_path(args.output / "roofline.json") as path:
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    with atomic_path(args.output / "roofline.png") as path:
        plot(results, path)
    print(f"wrote {args.output}/roofline.json and .png, {len(points)} points")


if __name__ == "__main__":
    run(main)
