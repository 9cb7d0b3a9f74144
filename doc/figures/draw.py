"""Draw the figures of the documentation; the same input gives the same pictures.

    python doc/figures/draw.py                # all of them, next to this file
    python doc/figures/draw.py crf_decode     # one

What is computed in a picture is computed by the project's own code: the convolution by
``lite::dynamic_conv``, the best path by ``lite::crf_decode``, the graphs by the exporter and the surgeon.
"""

import argparse
import itertools
import math
import os
import sys
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import onnx_ir as ir
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[1]))

from onnx_export.export_one_pass import to_onnx  # noqa: E402
from train_model.cli import first_line  # noqa: E402
from train_model.models.conv_crf_transformer import ConvCrfTransformer  # noqa: E402
from train_model.models.fold import fold  # noqa: E402
from train_model.ops import crf_decode, dynamic_conv  # noqa: E402
from train_model.tests.networks import one_pass  # noqa: E402
from trt_code.onnx_surgeon import patch  # noqa: E402
from trt_code.surgeon.graph import DOMAIN, nodes_of  # noqa: E402

INK, GREY, PALE = "#1f2933", "#7b8794", "#eef1f4"
BLUE, ORANGE, GREEN, RED = "#2b6cb0", "#c05621", "#2f855a", "#c53030"
TINTS = {BLUE: "#e3eefa", ORANGE: "#fdeee0", GREEN: "#e2f4ea", GREY: PALE}


def canvas(width: float, height: float, title: str) -> Axes:
    """Empty axes whose units are tenths of an inch, from the lower left."""
    figure = plt.figure(figsize=(width / 10, height / 10))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    axes.text(2, height - 2.6, title, fontsize=13, weight="bold", color=INK, va="center")
    return axes


def box(
    axes: Axes,
    center: tuple[float, float],
    size: tuple[float, float],
    text: str,
    color: str = GREY,
    *,
    dashed: bool = False,
    fontsize: float = 9.5,
) -> None:
    """A labelled box around ``center``."""
    (x, y), (width, height) = center, size
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.7",
            facecolor=TINTS[color],
            edgecolor=color,
            linestyle="--" if dashed else "-",
            linewidth=1.3,
            zorder=2,
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=fontsize, color=INK, zorder=3)


def note(axes: Axes, at: tuple[float, float], text: str, color: str = GREY, **options) -> None:
    """Text without a box."""
    options = {"ha": "center", "va": "center", "fontsize": 9} | options
    axes.text(*at, text, color=color, zorder=3, **options)


def arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    color: str = GREY,
    width: float = 1.3,
    style: str = "-|>",
    dashed: bool = False,
) -> None:
    """An arrow, or with the style ``-`` a line."""
    axes.annotate(
        "",
        xy=end,
        xytext=start,
        arrowprops={
            "arrowstyle": style,
            "color": color,
            "linewidth": width,
            "linestyle": "--" if dashed else "-",
            "shrinkA": 0,
            "shrinkB": 0,
        },
        zorder=1,
    )


def line() -> None:
    """The stations from a checkpoint to an engine, and what each is compared with."""
    axes = canvas(122, 46, "From a checkpoint to an engine")
    stations = [
        (13, "checkpoint.pt", GREY),
        (37, "PyTorch network\ntrain_model/", BLUE),
        (65, "model.onnx\nonnx_export/", ORANGE),
        (96, "model.fp16.onnx\ntrt_code/surgeon/", GREEN),
    ]
    for x, text, color in stations:
        box(axes, (x, 36), (19, 7.4), text, color)
    steps = ["load", "make onnx", "make patch"]
    for (left, *_), (right, *_), step in zip(stations, stations[1:], steps, strict=False):
        arrow(axes, (left + 9.5, 36), (right - 9.5, 36))
        note(axes, ((left + right) / 2, 37.7), step, fontsize=8)
    runs = [
        (37, "CUDA graphs\non a GPU, no TensorRT", BLUE, False),
        (65, "ONNX Runtime\nmodel-local functions", ORANGE, False),
        (87, "ONNX Runtime\nreference functions", GREEN, False),
        (109, "model.fp16.plan\nTensorRT + plugins", GREEN, True),
    ]
    for x, text, color, dashed in runs:
        box(axes, (x, 19), (20, 7.4), text, color, dashed=dashed, fontsize=9)
    for start, end in ((37, 37), (65, 65), (93, 87), (99, 109)):
        arrow(axes, (start, 32.3), (end, 22.7), dashed=end == 109)
    note(axes, (105.5, 28.2), "make engine-fp16", fontsize=8, ha="left")
    arrow(axes, (22, 9), (109, 9), BLUE, style="-", width=2)
    box(axes, (13, 9), (19, 5.4), "PyTorch FP32, CPU", BLUE, fontsize=9)
    for x in (37, 65, 87):
        arrow(axes, (x, 15.3), (x, 9), BLUE, style="<|-|>")
    arrow(axes, (109, 15.3), (109, 9), BLUE, style="<|-|>", dashed=True)
    text = "every form is compared with the network in PyTorch FP32; dashed: not run yet"
    note(axes, (64, 3.6), text)


def lsra() -> None:
    """Channels split into attention and convolution, with the weights that each mixes positions by."""
    length, kernel = 12, 5
    torch.manual_seed(4)
    logits = torch.randn(length, length) * 1.2
    attention = logits.softmax(-1)
    taps = torch.randn(1, 1, kernel, length).softmax(2)
    identity = torch.eye(length)[None]
    convolution = dynamic_conv(identity, taps, kernel // 2)[0].T

    axes = canvas(
        112, 62, "Long-short range attention: each half of the channels looks its own way"
    )
    box(axes, (8, 30), (11, 8), "x\n[B, T, C]")
    for y, color, name in ((44, BLUE, "channels 0 .. C/2"), (16, ORANGE, "channels C/2 .. C")):
        arrow(axes, (13.5, 30), (24.5, y))
        box(axes, (33, y), (17, 5.5), name, color)
        arrow(axes, (41.5, y), (48, y))
    for y, color, weights, cmap in (
        (44, BLUE, attention, "Blues"),
        (16, ORANGE, convolution, "Oranges"),
    ):
        left, bottom, size = 54.5, y - 9, 18
        inset = axes.inset_axes((left, bottom, size, size), transform=axes.transData)
        inset.imshow(weights, cmap=cmap, vmin=0)
        inset.set(xticks=[], yticks=[])
        for side in inset.spines.values():
            side.set_color(color)
        note(axes, (left - 1.2, y), "output position", rotation=90, fontsize=8, ha="right")
        note(axes, (left + size / 2, bottom - 1.5), "input position", fontsize=8)
        arrow(axes, (left + size + 0.5, y), (90, 30))
    note(axes, (63.5, 54.7), "self-attention: any distance", BLUE, fontsize=10)
    note(axes, (63.5, 26.7), "convolution: K taps nearby", ORANGE, fontsize=10)
    note(
        axes,
        (33, 11),
        "dynamic: linear and gate before,\nlinear after the convolution",
        ORANGE,
        fontsize=8.5,
    )
    box(axes, (97, 30), (14, 8), "side by side\n[B, T, C]")
    arrow(axes, (104, 30), (111, 30))
    note(axes, (93, 9), "no projection after;\nthen residual and LayerNorm,\nthen a feed-forward block\n"
         "no wider than C", fontsize=8.5)  # fmt: skip
    note(
        axes,
        (31, 52),
        "shade: weight of an input in an output\n(random weights, K = 5)",
        fontsize=8.5,
    )


def dynamic_convolution() -> None:
    """Two positions of one sentence: taps from the input, softmax, weighted sum."""
    length, kernel, padding_l = 9, 3, 1
    torch.manual_seed(1)
    x = torch.randn(1, 1, length)
    logits = torch.randn(1, 1, kernel, length) * 1.5
    weight = logits.softmax(2)
    y = dynamic_conv(x, weight, padding_l)

    axes = canvas(112, 66, "DynamicConv: every position makes its own taps")
    step, left = 9.6, 25
    center = [left + step * t for t in range(length)]
    limit = 1.15 * max(x.abs().max().item(), y.abs().max().item())

    def cell(t: int, height: float, value: float, color: str, marked: bool) -> None:
        shade = matplotlib.colormaps["PuOr"](0.5 + 0.5 * value / limit)
        axes.add_patch(
            plt.Rectangle(
                (center[t] - 4, height - 2.4),
                8,
                4.8,
                facecolor=shade,
                edgecolor=color if marked else "#cbd2d9",
                linewidth=2 if marked else 1,
            )
        )
        ink = "white" if abs(value) > 0.62 * limit else INK
        note(axes, (center[t], height), f"{value:.2f}", ink)

    at = {2: BLUE, 6: ORANGE}
    for t in range(length):
        cell(t, 54, x[0, 0, t].item(), at.get(t, GREY), t in at)
        cell(t, 11, y[0, 0, t].item(), at.get(t, GREY), t in at)
        note(axes, (center[t], 6.8), f"t = {t}", fontsize=8)
    for t, color in at.items():
        base = 28.5
        for k in range(kernel):
            source = t + k - padding_l
            tap = weight[0, 0, k, t].item()
            axes.add_patch(
                plt.Rectangle((center[source] - 2.6, base), 5.2, 11 * tap, color=color, alpha=0.75)
            )
            note(axes, (center[source], base + 11 * tap + 1.5), f"{tap:.2f}", color)
            arrow(axes, (center[source], 51.4), (center[source], base + 11 * tap + 3), color, 1)
            arrow(axes, (center[source], base - 0.3), (center[t], 13.7), color, 1)
        arrow(axes, (center[0] - 5, base), (center[-1] + 5, base), "#cbd2d9", style="-")
        window = "sum of tap x input"
        note(axes, (center[t], 20.5), window, color, fontsize=8.5,
             bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})  # fmt: skip
    for t, color in at.items():
        note(axes, (center[t], 58.6), "taps come from here", color, fontsize=8.5)
    for height, label in (
        (54, "x\none channel"),
        (34, "taps of a head\nsoftmax of\nweight_linear(all\nchannels of x at t)"),
        (11, "y"),
    ):
        note(axes, (10, height), label, INK)
    note(axes, (62, 2.8), "K = 3, padding_l = 1; random numbers, computed by lite::dynamic_conv. "
         "The other positions do the same with taps of their own.")  # fmt: skip


def crf() -> None:
    """A lattice of candidates: the best token of every position, and the best path."""
    words = [
        ["<s>"],
        ["Danke", "Vielen", "Besten"],
        ["Dank", "schön", "sehr"],
        ["!", ".", ";"],
        ["</s>"],
    ]
    symbols = [word for column in words for word in column] + ["(none)"]
    beam, none = 3, len(symbols) - 1
    targets = torch.full((1, len(words), beam), none, dtype=torch.int32)
    emissions = torch.full((1, len(words), beam), -50.0)
    values = [[0.0], [2.0, 1.8, 0.4], [2.1, 1.7, 0.6], [1.5, 1.2, 0.1], [0.0]]
    for t, (column, scores) in enumerate(zip(words, values, strict=True)):
        for slot, (word, score) in enumerate(zip(column, scores, strict=True)):
            targets[0, t, slot], emissions[0, t, slot] = symbols.index(word), score
    E1, E2 = torch.zeros(len(symbols), 2), torch.zeros(len(symbols), 2)
    for word, vector in {
        "Danke": (-1.0, 1.0),
        "Vielen": (1.2, -1.0),
        "Besten": (1.0, -1.0),
    }.items():
        E1[symbols.index(word)] = torch.tensor(vector)
    for word, vector in {"Dank": (1.0, 0.0), "schön": (0.0, 1.0), "sehr": (0.0, 0.8)}.items():
        E2[symbols.index(word)] = torch.tensor(vector)
    mask = torch.ones(1, len(words), dtype=torch.int32)
    tokens, scores = crf_decode(emissions, targets, E1, E2, mask)
    path = [symbols[token] for token in tokens[0]]
    greedy = [column[0] for column in words]

    axes = canvas(112, 58, "CRF decoding: the best path, not the best token of every position")
    places = {
        word: (12 + 22 * t, 37 - 12 * slot if len(column) > 1 else 25)
        for t, column in enumerate(words)
        for slot, word in enumerate(column)
    }
    half = 6.5
    for before, after in itertools.pairwise(words):
        for a in before:
            for b in after:
                (x0, y0), (x1, y1) = places[a], places[b]
                arrow(axes, (x0 + half, y0), (x1 - half, y1), "#d5dbe1", 1, "-")
    for chain, color, width, dashed, shift in (
        (greedy, RED, 1.6, True, 0.7),
        (path, BLUE, 2.6, False, -0.7),
    ):
        for a, b in itertools.pairwise(chain):
            (x0, y0), (x1, y1) = places[a], places[b]
            arrow(
                axes, (x0 + half, y0 + shift), (x1 - half, y1 + shift), color, width, dashed=dashed
            )
    for t, column in enumerate(words):
        for slot, word in enumerate(column):
            text = f"{word}\n{values[t][slot]:.1f}" if len(column) > 1 else word
            box(axes, places[word], (13, 6.4), text, BLUE if word in path else GREY, fontsize=10)
    note(axes, (34, 44.5), "position 1: the beam of 3\ncandidates, best first", fontsize=8.5)
    total = scores.sum().item()
    transition = float(E1[symbols.index("Vielen")] @ E2[symbols.index("Dank")])
    wrong = float(E1[symbols.index("Danke")] @ E2[symbols.index("Dank")])
    other = sum(column[0] for column in values) + wrong
    note(axes, (68, 49), f"transition Danke to Dank: E1[Danke] · E2[Dank] = {wrong:.1f}", RED)
    note(
        axes,
        (68, 46),
        f"transition Vielen to Dank: E1[Vielen] · E2[Dank] = +{transition:.1f}",
        BLUE,
    )
    over = {"fontsize": 10, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1}}
    note(axes, (45, 40), f"{wrong:.1f}", RED, **over)
    note(axes, (43, 30.2), f"+{transition:.1f}", BLUE, **over)
    note(
        axes,
        (56, 6.2),
        f"solid: best path, {' '.join(path[1:-1])} = {total:.1f}",
        BLUE,
        fontsize=10,
    )
    note(axes, (56, 3), f"dashed: best tokens one by one, {' '.join(greedy[1:-1])} = {other:.1f}", RED,
         fontsize=10)  # fmt: skip


def surgery() -> None:
    """The graph around one convolution, as exported and as patched."""
    torch.manual_seed(0)
    config = one_pass(
        encoder_layers=1,
        decoder_layers=1,
        encoder_kernel_size_list=(3,),
        decoder_kernel_size_list=(3,),
    )
    model = to_onnx(fold(ConvCrfTransformer(config).eval()))
    before = _around(next(nodes_of(model, "LiteDynamicConv")), back=4, on=3)
    axes = canvas(
        112, 99, "Around one convolution of the encoder: exported, and patched for TensorRT"
    )
    _draw_graph(axes, before, (31, 90), "exported: model.onnx", 7.6)
    patch(model)
    after = _around(next(nodes_of(model, "LiteDynamicConv")), back=2, on=2)
    _draw_graph(axes, after, (84, 90), "patched: model.fp32.onnx", 7.6)


def _around(node: ir.Node, back: int, on: int) -> list[ir.Node]:
    """The nodes up to ``back`` steps before ``node``, itself, and up to ``on`` steps after, in order."""
    found = {node}
    for steps, neighbours in ((back, ir.Node.predecessors), (on, ir.Node.successors)):
        edge = {node}
        for _ in range(steps):
            edge = {other for item in edge for other in neighbours(item)}
            found |= edge
    return [item for item in node.graph if item in found]


def _draw_graph(
    axes: Axes, nodes: list[ir.Node], top: tuple[float, float], title: str, gap: float
) -> None:
    """Nodes in rows by their distance from the first, edges between them."""
    row: dict[ir.Node, int] = {}
    for node in nodes:
        row[node] = 1 + max(
            (row[other] for other in node.predecessors() if other in row), default=-1
        )
    for node in reversed(nodes):  # down to right above what reads it
        below = [row[other] for other in node.successors() if other in row]
        row[node] = min(below) - 1 if below else row[node]
    # an edge that crosses several rows gets its own narrow column in each, in which it is vertical
    links: list[tuple[Hashable, Hashable]] = []
    rows: dict[int, list[Hashable]] = {}
    for node in nodes:
        rows.setdefault(row[node], []).append(node)
    for node in nodes:
        for other in dict.fromkeys(node.predecessors()):
            if other not in row:
                continue
            between = [(other, node, level) for level in range(row[other] + 1, row[node])]
            for level, bend in enumerate(between, start=row[other] + 1):
                rows[level].append(bend)
            links += itertools.pairwise([other, *between, node])
    place: dict[Hashable, tuple[float, float]] = {}
    note(axes, top, title, INK, fontsize=11, weight="bold")

    def order(item: Hashable) -> tuple[float, float]:
        """Above what reads it; among equals below what it reads."""
        readers = [place[b][0] for a, b in links if a == item]
        sources = [place[a][0] for a, b in links if b == item and a in place]
        return _mean(readers), _mean(sources) or math.inf

    for level, members in 2 * sorted(rows.items(), reverse=True):
        members.sort(key=order)
        widths = [17 if isinstance(item, ir.Node) else 5 for item in members]
        edges = itertools.accumulate(widths, initial=top[0] - sum(widths) / 2)
        for item, width, edge in zip(members, widths, edges, strict=False):
            place[item] = (edge + width / 2, top[1] - 6 - gap * level)
    half = 2.1  # of a box's height
    for start, end in links:
        (x0, y0), (x1, y1) = place[start], place[end]
        if isinstance(end, ir.Node):
            x1 += _aside([place[a][0] for a, b in links if b == end], x0)
            arrow(axes, (x0, y0 - half), (x1, y1 + half))
        else:
            arrow(axes, (x0, y0 - half), (x1, y1 + half), style="-")
            arrow(axes, (x1, y1 + half), (x1, y1 - half), style="-")
    for node in nodes:
        x, y = place[node]
        ours = node.domain == DOMAIN
        box(axes, (x, y), (15.5, 2 * half), node.op_type, ORANGE if ours else GREY)
        if ours and node.attributes.get("fused"):
            wanted = ("fused", "heads", "kernel_size", "padding_l")
            text = "\n".join(f"{name} = {node.attributes[name].value}" for name in wanted)
            note(axes, (x + 9, y), text, ORANGE, ha="left", fontsize=8)


def _aside(sources: list[float], x: float) -> float:
    """Return how far from the middle of a box the arrow from ``x`` ends; all its arrows end apart."""
    return 3.0 * (sorted(sources).index(x) - (len(sources) - 1) / 2)


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0


FIGURES: dict[str, Callable[[], None]] = {
    "line": line,
    "lsra": lsra,
    "dynamic_conv": dynamic_convolution,
    "crf_decode": crf,
    "surgery": surgery,
}


def draw(names: Iterable[str], folder: Path) -> None:
    """Write the named figures into ``folder`` as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        with plt.rc_context({"font.family": "DejaVu Sans", "text.parse_math": False}):
            FIGURES[name]()
            target = folder / f"{name}.png"
            draft = target.with_suffix(".part")
            # the version of matplotlib would stand in the file
            plt.savefig(draft, format="png", dpi=90, metadata={"Software": None})
            plt.close()
        os.replace(draft, target)
        print(target)


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument(
        "names", nargs="*", metavar="FIGURE", help=f"of: {', '.join(FIGURES)} (all)"
    )
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder (where this file is)")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.names) - set(FIGURES)
    if unknown:
        parser.error(f"no figure {', '.join(sorted(unknown))}; there are: {', '.join(FIGURES)}")
    draw(arguments.names or FIGURES, arguments.output)


if __name__ == "__main__":
    main()
