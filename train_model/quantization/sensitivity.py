"""Measure INT8's error layer by layer, to find layers worth keeping in higher precision.

    python -m train_model.quantization.sensitivity --model demo

Every linear layer is measured twice on the same sentences: as the only layer in INT8, and as the only one not
in INT8. The logit error is the norm of the decoder's score difference from FP32 over the norm of the scores,
both without the mean over the vocabulary, which has no effect. Writes build/sensitivity/<model>.json, .md and
.png.
"""

import dataclasses
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from train_model import plots
from train_model.cli import (
    Parser,
    UserError,
    add_count,
    first_line,
    output_folder,
    path_argument,
    run,
)
from train_model.data.dictionary import PAD
from train_model.data.files import read_parallel
from train_model.data.tokenizer import Tokenizer, normalise
from train_model.model_folder import MODEL_HELP, ModelFolder, find_model
from train_model.models.architectures import architecture_of
from train_model.models.checkpoint import load_checkpoint
from train_model.progress import track
from train_model.quantization.calibration import METHODS, calibrate
from train_model.quantization.ptq import layers_to_quantize, with_ranges
from train_model.quantization.text import batches, calibration_rows, check_dictionary
from train_model.tables import Column, Table, as_json, page, write_files

MOST_BARS = 24
"""The most layers in the plot."""


@dataclasses.dataclass(frozen=True)
class Quality:
    """Quality of a mixture of precisions: logit error, and exact match in percent (None: no text)."""

    error: float
    exact: float | None


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        layer: its name.
        share: its share of the weights of all layers.
        only: the quality with INT8 in this layer alone.
        without: the quality with INT8 in all other layers.
    """

    layer: str
    share: float
    only: Quality
    without: Quality


class Probe:
    """The network in FP32 and INT8, and sentences to compare them with.

    Args:
        merged: the network in FP32, its projections merged.
        ranges: the ranges of all its layers, from ``calibrate``.
        names: the layers.
        rows: tokens of the source sentences.
        references: the reference translations for exact matches, or None.
        tokenizer: turns tokens into text; needed with references.
    """

    def __init__(
        self,
        merged: nn.Module,
        ranges: dict[str, Tensor],
        names: list[str],
        rows: list[list[int]],
        references: list[str] | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        # a copy, since quality() exchanges its layers
        self._model = architecture_of(merged).merge(merged)
        quantized = with_ranges(merged, names, ranges)
        self._plain = {name: self._model.get_submodule(name) for name in names}
        self._rounded = {name: quantized.get_submodule(name) for name in names}
        self._batches = list(batches(rows))
        self._references, self._tokenizer = references, tokenizer
        self._expected: list[tuple[Tensor, Tensor]] = []  # canvas and logits of FP32
        self.reference = self.quality([])

    def sizes(self) -> dict[str, int]:
        """Return the number of weights of each layer."""
        return {name: layer.weight.numel() for name, layer in self._plain.items()}

    @torch.inference_mode()
    def quality(self, int8: Collection[str]) -> Quality:
        """Measure the network with the layers ``int8`` in INT8 and the rest in FP32."""
        for name, plain in self._plain.items():
            self._model.set_submodule(name, self._rounded[name] if name in int8 else plain)
        difference = spread = 0.0
        exact = 0
        for index, (chosen, tokens) in enumerate(self._batches):
            canvas, logits, output = self._translate(index, tokens)
            real = canvas.ne(PAD)[:, :, None]
            expected = self._expected[index][1]
            difference += _energy((logits - expected).masked_fill(~real, 0))
            spread += _energy(expected.masked_fill(~real, 0))
            if self._references is not None:
                pairs = zip(output, chosen, strict=True)
                exact += sum(
                    self._tokenizer.decode(row[1:].tolist()) == self._references[at]
                    for row, at in pairs
                )
        sentences = sum(len(chosen) for chosen, _ in self._batches)
        share = None if self._references is None else 100 * exact / sentences
        return Quality((difference / spread) ** 0.5, share)

    def _translate(self, index: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return FP32's canvas, the scores for it, and the translation on the network's own canvas."""
        model = self._model
        source = model.encode(tokens)
        width = model.canvas_width(tokens.shape[1])
        own = model.initial_canvas(model.predict_length(source), width)
        if index == len(self._expected):  # the first call is in FP32
            self._expected.append((own, model.decode(own, source)))
        canvas = self._expected[index][0]
        logits = model.decode(canvas, source)
        own_logits = logits if torch.equal(own, canvas) else model.decode(own, source)
        output = model.choose(own_logits, own)[0] if self._references is not None else own
        return canvas, logits, output


def _energy(logits: Tensor) -> float:
    return float((logits - logits.mean(-1, keepdim=True)).double().square().sum())


def suggest(rows: list[Row]) -> list[str]:
    """Return the fewest layers that halve the logit error if they stay in higher precision.

    Assumes that the errors of single layers are small and independent, so that their squares add up.
    """
    left = sum(row.only.error**2 for row in rows)
    target = left / 4
    kept = []
    for row in sorted(rows, key=lambda row: -row.only.error):
        if left <= target:
            break
        left -= row.only.error**2
        kept.append(row.layer)
    return kept


def measure(probe: Probe, names: list[str]) -> list[Row]:
    """Return one row per layer, in the network's order."""
    sizes = probe.sizes()
    rows = []
    for name in track(names, "measuring one layer at a time", unit="layers"):
        others = [other for other in names if other != name]
        share = sizes[name] / sum(sizes.values())
        rows.append(Row(name, share, probe.quality([name]), probe.quality(others)))
    return rows


TABLE = Table(
    [
        Column("layer", lambda row: row.layer, width=46, left=True),
        Column("weights", lambda row: row.share, ".1%"),
        Column("error alone", lambda row: row.only.error, ".5f", 13),
        Column("exact", lambda row: row.only.exact, ".1f"),
        Column("error without", lambda row: row.without.error, ".5f", 15),
        Column("exact", lambda row: row.without.exact, ".1f"),
    ]
)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def markdown(title: str, summary: list[str], rows: list[Row]) -> str:
    """Return the report in Markdown, the layers with the largest error first."""
    worst_first = sorted(rows, key=lambda row: -row.only.error)
    return page(title, (f"- {line}" for line in summary), "", TABLE.markdown(worst_first))


def plot(path: Path, title: str, rows: list[Row], all_int8: Quality, kept: Collection[str]) -> None:
    """Plot one bar per layer: the error with only it in INT8; suggested layers in another colour.

    The layers with the largest errors come first; the table has the others.
    """
    from matplotlib import patches

    worst_first = sorted(rows, key=lambda row: -row.only.error)
    shown, others = worst_first[:MOST_BARS], worst_first[MOST_BARS:]
    figure, grid = plots.grid(1, 1, (8, 0.23 * len(shown) + 1.6))
    axes = grid[0][0]
    colours = ["tab:red" if row.layer in kept else "tab:blue" for row in shown]
    bars = axes.barh([row.layer for row in shown], [row.only.error for row in shown], color=colours)
    axes.bar_label(bars, fmt="%.4f", padding=3, fontsize=8)
    line = axes.axvline(
        all_int8.error, color="black", linestyle="--", label=f"all layers: {all_int8.error:.4f}"
    )
    suggested = patches.Patch(color="tab:red", label="suggested for --keep")
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.01)
    axes.tick_params(axis="both", labelsize=8)
    rest = f"; {len(others)} others have less" if others else ""
    axes.set_xlabel(f"logit error with this layer alone in INT8{rest}", fontsize=9)
    axes.legend(handles=[line, suggested], fontsize=8, loc="center", bbox_to_anchor=(0.72, 0.4))
    plots.save(figure, title, path)


def _sentences(
    files: ModelFolder, limit: int, vocabulary: int, longest: int
) -> tuple[list[list[int]], list[str] | None, Tokenizer | None]:
    """Return encoded sentences with their references and tokenizer: of the test split, or random ones."""
    if files.test_src is None or files.test_tgt is None:
        return calibration_rows(files, None, limit, vocabulary, longest)[0], None, None
    check_dictionary(files, vocabulary)
    tokenizer = Tokenizer.from_files(files)
    pairs = [pair for pair in read_parallel(files.test_src, files.test_tgt) if normalise(pair[0])]
    encoded = [(tokenizer.encode(source), target) for source, target in pairs[:limit]]
    fitting = [(row, target) for row, target in encoded if len(row) <= longest]
    if not fitting:
        raise UserError(f"{files.test_src} has no sentence of at most {longest} tokens")
    return [row for row, _ in fitting], [target for _, target in fitting], tokenizer


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(description=first_line(__doc__))
    parser.add_argument("--model", default="demo", help=MODEL_HELP)
    parser.add_argument("--method", choices=METHODS, default="max", help="method of calibration")
    add_count(parser, "--sentences", 200, "sentences of the test split to translate")
    add_count(parser, "--calibration", 512, "sentences to calibrate with")
    parser.add_argument("--build-dir", type=path_argument, default="build", help="default build")
    parser.add_argument("--output", type=output_folder, help="folder (default build/sensitivity)")
    options = parser.parse_args(argv)
    files = find_model(options.model, options.build_dir)
    if files.autoregressive:
        raise UserError(
            f"{files.name} is autoregressive; this measures one-pass networks, such as demo and wmt16"
        )
    loaded = load_checkpoint(files.checkpoint)
    limits = loaded.config.src_vocab, loaded.config.max_source_positions
    merged = architecture_of(loaded.model).merge(loaded.model)
    names = layers_to_quantize(merged)
    rows, origin = calibration_rows(files, None, options.calibration, *limits)
    tokens = [tokens for _, tokens in batches(rows)]
    ranges = calibrate(merged, names, tokens, options.method)
    tested, references, tokenizer = _sentences(files, options.sentences, *limits)
    probe = Probe(merged, ranges, names, tested, references, tokenizer)
    measured = measure(probe, names)
    print("\n".join([TABLE.head(), *map(TABLE.line, measured)]))
    all_int8, kept = probe.quality(names), suggest(measured)
    partly = probe.quality([name for name in names if name not in kept])
    title = f"INT8 sensitivity of {files.name}"
    summary = [
        f"{len(tested)} test sentences; ranges ({options.method}) from {origin}",
        f"FP32: exact match {_percent(probe.reference.exact)}",
        f"all {len(names)} layers in INT8: logit error {all_int8.error:.5f}, exact match "
        f"{_percent(all_int8.exact)}",
        f"all but these {len(kept)}: logit error {partly.error:.5f}, exact match "
        f"{_percent(partly.exact)}: --keep {' --keep '.join(kept)}",
    ]
    folder = options.output or options.build_dir / "sensitivity"
    report = {
        "model": files.name,
        "summary": summary,
        "reference": dataclasses.asdict(probe.reference),
        "all_int8": dataclasses.asdict(all_int8),
        "keep": kept,
        "with_keep": dataclasses.asdict(partly),
        "layers": [dataclasses.asdict(row) for row in measured],
    }
    write_files(
        folder,
        {
            f"{files.name}.json": as_json(report),
            f"{files.name}.md": markdown(title, summary, measured),
            f"{files.name}.png": lambda path: plot(path, title, measured, all_int8, kept),
        },
    )
    print("\n".join(["", *summary, f"wrote {folder}/{files.name}.json, .md and .png"]))


if __name__ == "__main__":
    run(main)
