"""Plots a roofline: kernels and networks against the limits of the GPU.

    python -m trt_code.measure.kernels --no-compile --output build/bench/kernels
    python -m trt_code.measure.sweep --model wmt16-random
    python -m trt_code.measure.roofline --kernels build/bench/kernels.json --sweep build/sweep/results.json

The ceilings are measured in the same run, on random numbers: a copy of 1 GiB, and a product of matrices of
8192 x 8192 by cuBLAS in each precision. ``--ceilings`` takes them from an earlier ``roofline.json``, and
then no GPU is needed. A point's work is its multiplications and additions; its bytes are the fewest that
must move: each input and weight read once, each output written once. Writes ``roofline.json`` and ``.png``.
"""

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import train_model.model_stats  # noqa: F401  registers the project's operators for counting
from train_model import plots
from train_model.cli import Parser, UserError, path_argument, run
from train_model.documents import read_json, used
from train_model.model_folder import find_model
from train_model.models.checkpoint import load_checkpoint
from train_model.tables import as_json, write_files
from trt_code import arguments
from trt_code.devices import processors
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
from trt_code.measure.machine import describe, machine_name
from trt_code.runners import RUNNERS, spec

SIZE = 8192
LARGEST = 1e30  # of a number in the plot
COLUMNS = 4  # panels of the plot next to each other
NEAR_THE_EDGE = 3e3  # operations per byte; labels of points beyond it are on their left
PRECISIONS = {"fp16": torch.float16, "tf32": torch.float32, "fp32": torch.float32}
WEIGHT_BYTES = {"fp16": 2, "bf16": 2, "tf32": 4, "fp32": 4}


def ceilings() -> dict[str, Any]:
    """Measure bytes per second of a copy, and operations per second of a large product per precision."""
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
    """Count multiplications, additions, comparisons and exponentials of a call timed by ``kernels``."""
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
    """Return one point per row of the JSON file of ``trt_code.measure.kernels``."""
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


def network_points(measured: dict[str, Any], build_dir: Path) -> Iterator[dict[str, Any]]:
    """Return one point per timed row of a sweep, without runners that cut the canvas, which do less work."""
    model = load_checkpoint(find_model(measured["model"], build_dir).checkpoint).model
    model = model.eval().to("meta")
    weights = sum(p.numel() for p in model.parameters())
    counted: dict[tuple[int, int], int] = {}
    for row in measured["rows"]:
        if not row["lt"] or _cuts_canvas(row["runner"]):
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


def _cuts_canvas(runner: str) -> bool:
    declared = spec(runner, "one-pass") if runner in RUNNERS else None
    return declared is not None and declared.cuts_canvas


def plot(results: dict[str, Any], path: Path) -> None:
    """Plot operations per second against operations per byte, with the ceilings, as a PNG at ``path``.

    There is one panel per kernel and per runner. The colour shows the precision. The first and the last
    shape are labelled.
    """
    points = results["points"]
    names = list(dict.fromkeys((point["kind"], point["name"]) for point in points))
    ceilings = results["ceilings"]
    precisions = list(dict.fromkeys([*ceilings["operations_per_s"], *_values(points, "precision")]))
    colour = plots.colours(precisions)
    rows = max(1, math.ceil(len(names) / COLUMNS))
    figure, axes = plots.grid(rows, COLUMNS, (11.5, 0.8 + 2.6 * rows), sharex=True, sharey=True)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for number, (axis, key) in enumerate(zip(axes.flat, names, strict=False)):
        _draw_ceilings(axis, ceilings, colour)
        own = [point for point in points if (point["kind"], point["name"]) == key]
        at = [(p["operations"] / p["bytes"], p["operations"] / p["seconds"]) for p in own]
        axis.scatter(*zip(*at, strict=True), s=12, color=[colour[p["precision"]] for p in own])
        shapes = [point["shape"] for point in own]
        for shape in dict.fromkeys((shapes[0], shapes[-1])):
            where = at[shapes.index(shape)]
            side = "left" if where[0] < NEAR_THE_EDGE else "right"
            offset = (4 if side == "left" else -4, -2)
            axis.annotate(
                shape, where, offset, textcoords="offset points", ha=side, va="top", fontsize=6
            )
        axis.set(xscale="log", yscale="log")
        axis.set_title(f"{key[1]} ({key[0]})", fontsize="small")
        axis.tick_params(labelsize=7, labelbottom=number + COLUMNS >= len(names))
        axis.grid(alpha=0.3)
    marks = [
        axes[0][0].plot([], [], "o", color=colour[name], markersize=4, label=name)[0]
        for name in precisions
    ]
    figure.legend(handles=marks, loc="outside upper right", ncols=len(marks), fontsize="small")
    figure.supxlabel("operations for each byte that must move", fontsize="small")
    figure.supylabel("operations/s", fontsize="small")
    plots.save(figure, machine_name(results["machine"]), path)


def _draw_ceilings(axis: Any, ceilings: dict[str, Any], colour: dict[str, Any]) -> None:
    bandwidth = ceilings["bytes_per_s"]
    axis.text(0.05, bandwidth * 5, f"copy, {bandwidth / 1e12:.2f} TB/s", color="0.4", fontsize=6)
    for name, most in ceilings["operations_per_s"].items():
        ridge = most / bandwidth
        axis.plot([0.05, ridge], [0.05 * bandwidth, most], color="0.7", linewidth=0.8, zorder=0)
        axis.plot([ridge, 1e5], [most, most], color=colour[name], linewidth=0.8, zorder=0)
        axis.text(
            1e5, most, f"cuBLAS {name}", ha="right", va="bottom", color=colour[name], fontsize=6
        )


def _values(points: list[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(point[key] for point in points))


def _check_ceilings(results: dict[str, Any]) -> None:
    """Raise one of ``WRONG_FORM`` unless the plot can use these facts and ceilings."""
    machine_name(results["machine"])
    speeds = results["ceilings"]
    for speed in (speeds["bytes_per_s"], *speeds["operations_per_s"].values()):
        _check_positive(speed)


def _checked(point: dict[str, Any]) -> dict[str, Any]:
    """Return a point that the plot can use; raises one of ``WRONG_FORM`` for another."""
    for name in ("operations", "bytes", "seconds"):
        _check_positive(point[name])
    if not all(isinstance(point[name], str) for name in ("name", "shape", "precision")):
        raise TypeError("a name, shape or precision is not text")
    return point


def _check_positive(value: float) -> None:
    if not 0 < value < LARGEST:
        raise ValueError(f"{value} is not a number of a plot")


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(prog="python -m trt_code.measure.roofline", description=__doc__)
    parser.add_argument(
        "--kernels", type=path_argument, help="JSON file of trt_code.measure.kernels"
    )
    parser.add_argument("--sweep", type=path_argument, help="JSON file of trt_code.measure.sweep")
    parser.add_argument(
        "--ceilings", type=path_argument, help="a roofline.json to take the ceilings from"
    )
    arguments.add_build_dir(parser)
    arguments.add_output(parser, "build/roofline")
    args = parser.parse_args(argv)
    if args.ceilings:
        remedy = "measure on a GPU without --ceilings"
        earlier = read_json(args.ceilings, remedy)
        with used(args.ceilings, "a roofline.json", remedy):
            results = {name: earlier[name] for name in ("machine", "ceilings")}
            _check_ceilings(results)
    elif torch.cuda.is_available():
        results = {"machine": describe("cuda", processors()), "ceilings": ceilings()}
    else:
        raise UserError("no CUDA GPU to measure the ceilings on; give an earlier --ceilings file")
    points: list[dict[str, Any]] = []
    if args.kernels:
        remedy = "run `python -m trt_code.measure.kernels`"
        measured = read_json(args.kernels, remedy)
        with used(args.kernels, "a table of kernels", remedy):
            points += map(_checked, kernel_points(measured))
    if args.sweep:
        measured = read_json(args.sweep, "run `make sweep`")
        with used(args.sweep, "a sweep", "run `make sweep`"):
            points += map(_checked, network_points(measured, args.build_dir))
    results["points"] = points
    files = {"roofline.json": as_json(results), "roofline.png": functools.partial(plot, results)}
    write_files(args.output, files)
    print(f"wrote {args.output}/roofline.json and .png, {len(points)} points")


if __name__ == "__main__":
    run(main)
