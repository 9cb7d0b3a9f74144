"""Times each CUDA kernel against the bytes it must move and against PyTorch.

    python -m trt_code.measure.kernels --output build/bench/kernels

Every row is checked against float64 first; a kernel that is wrong is not timed, and the exit status is 1.
Times are device times: the calls of one case are captured in a CUDA graph, and replays are timed by
events. A large case takes turns with input sets that together do not fit in the cache. The floor is the
fewest bytes that a case must move over the bandwidth of a large copy in the same run.
Writes OUTPUT.json and OUTPUT.md. Needs a CUDA GPU and ``make torch-ops``.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from train_model.cli import Parser, UserError, first_line, number, path_argument, run
from train_model.ops import cuda_library_path, load_cuda_library
from train_model.ops.crf_decode import viterbi
from train_model.progress import track
from train_model.tables import Column, Table, as_json, facts, page, write_files
from trt_code import arguments
from trt_code.measure.machine import describe
from trt_code.runners.timing import graph_ms

lite = torch.ops.lite

# The full-size model (public architecture).
CHANNELS, HEADS, KERNEL, VOCAB, BEAM, RANK = 512, 8, 15, 32768, 32, 32
# Name: batch, canvas. The canvas is twice the source, which names the shape.
SHAPES = {"1x32": (1, 64), "16x32": (16, 64), "64x64": (64, 128), "large": (256, 512)}
MOST_LOGIT_ROWS = 8192  # 0.5 GB in FP16
OPERATORS = (
    "dynamic_conv",
    "dynamic_conv_fused",
    "glu_mask",
    "layer_norm",
    "top_k",
    "crf_decode",
)
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

CACHE_BYTES = 200 << 20  # the input sets of a large case exceed this in total
CALLS = 20  # of a captured graph
ROUNDS = 15
EAGER_CALLS, EAGER_ROUNDS = 2, 7  # PyTorch's forms are up to 1000 times slower


@dataclasses.dataclass(frozen=True)
class KernelCase:
    """One operator at one shape and dtype.

    Attributes:
        name, shape, dtype: as the table shows them.
        inputs: makes one set of the operator's tensors.
        kernel: runs it on one set.
        plain: the same in PyTorch, for the dtype of its tensors.
        moved: the fewest bytes that a call must move.
        compile: whether torch.compile of ``plain`` is worth its compile time.
        check: compares kernel and plain on one set; returns the error as text, or "".
    """

    name: str
    shape: str
    dtype: str
    inputs: Callable[[], list[Tensor]]
    kernel: Callable[..., Any]
    plain: Callable[..., Any]
    moved: int
    check: Callable[["KernelCase", list[Tensor]], str]
    compile: bool = True


# ---- PyTorch's forms ----------------------------------------------------------------------------


def plain_conv(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """dynamic_conv as K shifted products, which torch.compile fuses into one kernel."""
    length, heads, kernel = x.shape[2], weight.shape[1], weight.shape[2]
    padded = F.pad(x, (padding, kernel - 1 - padding)).unflatten(1, (heads, -1))
    terms = (weight[:, :, None, k] * padded[..., k : k + length] for k in range(kernel))
    return sum(terms).flatten(1, 2)


def plain_fused(x: Tensor, logits: Tensor, mask: Tensor, padding: int) -> Tensor:
    """dynamic_conv_fused with a mask."""
    x = x * mask[:, :, None]
    weight = logits.unflatten(2, (HEADS, -1)).softmax(-1)
    length, kernel = x.shape[1], weight.shape[3]
    padded = F.pad(x, (0, 0, padding, kernel - 1 - padding)).unflatten(2, (HEADS, -1))
    terms = (weight[..., k, None] * padded[:, k : k + length] for k in range(kernel))
    return sum(terms).flatten(2, 3)


def plain_norm(x: Tensor, residual: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.layer_norm(x + residual, x.shape[-1:], scale.to(x.dtype), shift.to(x.dtype), 1e-5)


def plain_crf(
    emissions: Tensor, targets: Tensor, E1: Tensor, E2: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """crf_decode in FP32, or in FP64 for FP64 emissions."""
    wide = torch.promote_types(emissions.dtype, torch.float32)
    return viterbi(emissions.to(wide), targets, E1, E2, mask)


# ---- checks -------------------------------------------------------------------------------------


def check_error(case: KernelCase, tensors: list[Tensor]) -> str:
    """Check that the error is at most twice PyTorch's in the same dtype, plus the dtype's rounding."""
    slices = [t[:4] if t.dim() > 1 else t for t in tensors]  # float64 of all would not fit
    exact = [t.double() if t.is_floating_point() else t for t in slices]
    reference = case.plain(*exact)
    error = (case.kernel(*tensors)[:4].double() - reference).abs().max().item()
    own = (case.plain(*slices).double() - reference).abs().max().item()
    unavoidable = torch.finfo(DTYPES[case.dtype]).eps / 2 * reference.abs().max().item()
    return "" if error <= 2 * own + unavoidable else f"error {error:.2e}, PyTorch's {own:.2e}"


def check_top_k(case: KernelCase, tensors: list[Tensor]) -> str:
    rows = tensors[0].flatten(0, -2)[:64].cpu()
    order = torch.sort(rows.double(), dim=-1, descending=True, stable=True).indices[:, :BEAM]
    indices = case.kernel(*tensors)[1].flatten(0, -2)[:64].cpu().long()
    return "" if torch.equal(indices, order) else "other indices than a stable sort's"


def check_crf(case: KernelCase, tensors: list[Tensor]) -> str:
    emissions, targets, E1, E2, mask = tensors
    exact = case.plain(emissions.double(), targets, E1.double(), E2.double(), mask)[1].sum(1)
    worst = (case.kernel(*tensors)[1].double().sum(1) - exact).abs().max().item()
    allowed = 1e-6 * emissions.shape[1] * exact.abs().max().item()
    return "" if worst <= allowed else f"path scores differ by {worst:.2e}"


# ---- cases --------------------------------------------------------------------------------------


def cases(shape: str, dtype_name: str) -> list[KernelCase]:
    """Return every operator at one shape and dtype."""
    batch, length = SHAPES[shape]
    dtype = DTYPES[dtype_name]
    size = dtype.itemsize
    positions = batch * length
    logit_rows = min(positions, MOST_LOGIT_ROWS)

    def normal(*sizes: int, of: torch.dtype = dtype) -> Tensor:
        return torch.randn(*sizes, device="cuda", dtype=of)

    def mask() -> Tensor:
        real = (torch.rand(batch, length, device="cuda") < 0.9).int()
        real[:, 0] = 1
        return real

    def crf() -> list[Tensor]:
        emissions = normal(batch, length, BEAM).sort(-1, descending=True).values
        targets = torch.randint(VOCAB, (batch, length, BEAM), device="cuda", dtype=torch.int32)
        return [emissions, targets, normal(VOCAB, RANK), normal(VOCAB, RANK), mask()]

    def case(
        name: str, inputs, kernel, plain, moved, check=check_error, compile=True
    ) -> KernelCase:
        return KernelCase(name, shape, dtype_name, inputs, kernel, plain, moved, check, compile)

    return [
        case(
            "dynamic_conv",
            lambda: [
                normal(batch, CHANNELS, length),
                normal(batch, HEADS, KERNEL, length).softmax(2),
            ],
            lambda x, weight: lite.dynamic_conv(x, weight, KERNEL // 2),
            lambda x, weight: plain_conv(x, weight, KERNEL // 2),
            positions * (2 * CHANNELS + HEADS * KERNEL) * size,
        ),
        case(
            "dynamic_conv_fused",
            lambda: [
                normal(batch, length, CHANNELS),
                normal(batch, length, HEADS * KERNEL),
                mask(),
            ],
            lambda x, logits, mask: lite.dynamic_conv_fused(
                x, logits, mask, HEADS, KERNEL, KERNEL - 1
            ),
            lambda x, logits, mask: plain_fused(x, logits, mask, KERNEL - 1),
            positions * ((2 * CHANNELS + HEADS * KERNEL) * size + 4),
        ),
        case(
            "glu_mask",
            lambda: [normal(batch, length, 2 * CHANNELS), mask()],
            lambda x, mask: lite.glu_mask(x, mask),
            lambda x, mask: F.glu(x, -1) * mask[:, :, None],
            positions * (3 * CHANNELS * size + 4),
        ),
        case(
            "layer_norm",
            lambda: [
                normal(batch, length, CHANNELS),
                normal(batch, length, CHANNELS),
                normal(CHANNELS, of=torch.float32),
                normal(CHANNELS, of=torch.float32),
            ],
            lambda x, residual, scale, shift: lite.layer_norm(x, residual, scale, shift, 1e-5),
            plain_norm,
            positions * 3 * CHANNELS * size + 8 * CHANNELS,
        ),
        case(
            "top_k",
            lambda: [normal(logit_rows, VOCAB)],
            lambda x: lite.top_k(x, BEAM),
            lambda x: torch.topk(x, BEAM),
            logit_rows * (VOCAB * size + BEAM * (size + 4)),
            check_top_k,
        ),
        case(
            "crf_decode",
            crf,
            lambda *tensors: lite.crf_decode(*tensors),
            plain_crf,
            positions * (BEAM * (size + 4) + 12 + 2 * BEAM * RANK * size),
            check_crf,
            compile=False,
        ),
    ]


# ---- timing -------------------------------------------------------------------------------------


def device_time(
    call: Callable[..., Any],
    sets: list[list[Tensor]],
    calls: int = CALLS,
    rounds: int = ROUNDS,
) -> float:
    """Return the median microseconds of one call on the device, over replays of a graph of ``calls`` calls.

    The calls take turns with the ``sets`` of tensors.
    """
    turns = [functools.partial(call, *sets[i % len(sets)]) for i in range(calls)]
    return graph_ms(turns, rounds) * 1e3


def copy_bandwidth() -> float:
    """Return bytes per second, read and written, of the faster 1 GiB copy: the driver's or PyTorch's."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    copies = (target.copy_, lambda x: torch.abs(x, out=target))
    return moved / min(device_time(copy, [[source]], calls=5) for copy in copies) * 1e6


def input_sets(case: KernelCase) -> tuple[list[list[Tensor]], int]:
    """Return the input sets of a case, used in rotation, and the number of calls per graph."""
    tensors = case.inputs()
    total = sum(t.numel() * t.element_size() for t in tensors)
    # Small cases find their inputs in the cache, as they do inside the network.
    copies = min(8, max(2, CACHE_BYTES // total + 1)) if total > CACHE_BYTES // 8 else 2
    sets = [tensors, *(case.inputs() for _ in range(copies - 1))]
    return sets, CALLS if total < CACHE_BYTES else 6


def measure(case: KernelCase, bandwidth: float) -> dict[str, Any]:
    """Check and time one case, and PyTorch's form of it."""
    row: dict[str, Any] = {"op": case.name, "shape": case.shape, "dtype": case.dtype}
    sets, calls = input_sets(case)
    if wrong := case.check(case, sets[0]):
        return row | {"error": wrong}
    row["kernel_us"] = device_time(case.kernel, sets, calls)
    row["floor_us"] = case.moved / bandwidth * 1e6
    row["moved_bytes"] = case.moved
    try:
        row["eager_us"] = device_time(case.plain, sets, min(calls, EAGER_CALLS), EAGER_ROUNDS)
    except torch.OutOfMemoryError:
        row["note"] = "PyTorch's form ran out of GPU memory"
    return row


def compiled_time(case: KernelCase) -> float:
    """Return the device time of PyTorch's form under torch.compile."""
    torch._dynamo.reset()
    sets, calls = input_sets(case)
    return device_time(torch.compile(case.plain, dynamic=False), sets, calls)


# ---- output -------------------------------------------------------------------------------------


def _ratio(above: str, below: str) -> Callable[[Mapping[str, Any]], float | None]:
    def value(row: Mapping[str, Any]) -> float | None:
        return row[above] / row[below] if row.get(above) and row.get(below) else None

    return value


TABLE = Table(
    [
        Column("operator", "op", left=True),
        Column("shape", "shape", left=True),
        Column("dtype", "dtype", left=True),
        Column("kernel", lambda row: row.get("kernel_us"), ".2f"),
        Column("floor", lambda row: row.get("floor_us"), ".2f"),
        Column("floor / kernel", _ratio("floor_us", "kernel_us"), ".0%"),
        Column("eager", lambda row: row.get("eager_us"), ".2f"),
        Column("torch.compile", lambda row: row.get("compile_us"), ".2f"),
        Column("eager / kernel", _ratio("eager_us", "kernel_us"), ".2f"),
        Column("note", lambda row: row.get("error") or row.get("note", ""), left=True),
    ]
)


def markdown(machine: dict[str, str], bandwidth: float, rows: list[dict[str, Any]]) -> str:
    """Return the table with its header, as a Markdown page."""
    copied = f"{bandwidth / 1e12:.2f} TB/s, bytes read and written"
    count, length = SHAPES["large"]
    note = (
        "Median device time of one call in microseconds, from replays of a CUDA graph. The shape is batch x "
        "source of the full-size model; its canvas is twice as long as the source. Large: "
        f"{count} sentences of {length} positions, {MOST_LOGIT_ROWS} rows for top_k. Floor: the bytes that "
        "must move divided by the copy bandwidth; small shapes fit in the cache and can be faster. "
        "torch.compile: default mode, also in a graph, without crf_decode, whose loop over the steps takes "
        "minutes to compile."
    )
    items = facts({**machine, "copy bandwidth in this run": copied})
    return page("Kernels: measured speed", items, note, TABLE.markdown(rows))


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``. Exit status 1 if a kernel is wrong."""
    parser = Parser(prog="python -m trt_code.measure.kernels", description=first_line(__doc__))
    arguments.add_names(parser, "--op", OPERATORS, "operator")
    arguments.add_names(parser, "--shape", tuple(SHAPES), "shape")
    arguments.add_names(parser, "--precision", tuple(DTYPES), "precision", "fp16")
    arguments.add_names(
        parser,
        "--large-precision",
        tuple(DTYPES),
        "precision",
        "",
        "also timed, only at the large shape",
    )
    parser.add_argument(
        "--compile-seconds",
        type=number(0),
        default=float("inf"),
        metavar="X",
        help="start no torch.compile after this many seconds (default: no limit)",
    )
    parser.add_argument(
        "--no-compile",
        dest="compile_seconds",
        action="store_const",
        const=0.0,
        help="leave torch.compile out",
    )
    parser.add_argument("--commit", help="recorded if this is not a git checkout")
    parser.add_argument(
        "--output",
        type=path_argument,
        default=Path("build/bench/kernels"),
        help="the files' name without .json and .md (build/bench/kernels)",
    )
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise UserError("kernels are timed on a CUDA GPU, and PyTorch sees none (make doctor)")
    if not load_cuda_library():
        raise UserError(f"{cuda_library_path()} is missing: make torch-ops")

    start = time.monotonic()
    torch.manual_seed(0)
    machine = describe("cuda", torch.get_num_threads())
    if args.commit:
        machine["commit"] = args.commit
    bandwidth = copy_bandwidth()
    sizes = [(shape, dtype) for dtype in args.precision for shape in args.shape]
    sizes += [("large", dtype) for dtype in args.large_precision]
    wanted = [case for size in sizes for case in cases(*size) if case.name in args.op]
    rows = []
    for case in track(wanted, "timing kernels", unit="cases"):
        rows.append(measure(case, bandwidth))
        torch.cuda.empty_cache()
    compiling = track(zip(wanted, rows, strict=True), "torch.compile", len(rows), "cases")
    for case, row in compiling:
        late = time.monotonic() - start > args.compile_seconds
        if case.compile and "eager_us" in row and not late:
            row["compile_us"] = compiled_time(case)
            torch.cuda.empty_cache()
    rows.sort(key=lambda row: row["op"])
    text = markdown(machine, bandwidth, rows)
    content = {"facts": machine, "copy_bytes_per_second": bandwidth, "rows": rows}
    folder, name = args.output.parent, args.output.name
    write_files(folder, {f"{name}.json": as_json(content), f"{name}.md": text})
    print(text)
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    run(main)
