"""Measures quality against speed on a model's test text, text in and text out, for several systems.

    python -m trt_code.measure.trade_off --entry en-de:ort-split:int8 --entry en-de-ar:ort:fp32:5 --limit 1000

An entry is that of ``trt_code.measure.compare``: model:runner:precision, and for an autoregressive model the
beam and the length penalty. For a one-pass model a number is that of its candidates, which the judge of its
model.yaml rescores. Rivals such as ctranslate2 are runners too. All entries must have the same test text.

The entries take turns: each translates the first part of the text, then each the second part, and so on, so
that a machine that becomes slower slows down all of them. The time is that from lines to lines, with encoding
and decoding. Writes ``build/trade_off/results.json``, ``.md`` and ``.png``. With ``--part 2/4`` only that
part is measured; it is kept in the folder, and the last part to be measured completes the results.

``--lines 100000`` repeats the text. The scores are those of its first copy; results.json counts the lines
whose translation in a later copy differs, and has the process' memory after each part.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train_model import plots
from train_model.cli import MAX_NUMBER, Parser, UserError, first_line, run
from train_model.data.files import sha256_of
from train_model.data.tokenizer import Tokenizer
from train_model.documents import read_json, used
from train_model.model_folder import ModelFolder, find_model
from train_model.tables import Column, Table, as_json, write_files
from trt_code import arguments
from trt_code.evaluate import read_split, score
from trt_code.measure import quality
from trt_code.measure.compare import Entry
from trt_code.measure.machine import describe, machine_name
from trt_code.runners import Runner, Unavailable, create
from trt_code.runners.memory import resident_memory
from trt_code.runners.rescoring import Rescoring
from trt_code.text.codec import Translation
from trt_code.text.translator import LineTranslator

PARTS = 4
WARM_UP_LINES = 16
PENALTY = re.compile(r", lenpen [\d.]+$")

TABLE = Table(
    [
        Column("", "name", width=52, left=True),
        Column("sentences", "sentences", width=11),
        Column("seconds", "seconds", ".1f"),
        Column("sentences/s", "sentences_per_s", ".1f", 13),
        Column("sentences/CPU s", "sentences_per_cpu_s", ".1f", 17),
        Column("BLEU", "bleu", ".2f"),
        Column("chrF", "chrf", ".2f"),
    ]
)


def title(entry: Entry, files: ModelFolder) -> str:
    """Return the name of an entry; a number is that of the candidates of a one-pass model."""
    model = files.folder.name if files.folder else files.name
    text = str(dataclasses.replace(entry, model=model))
    return (
        text if files.autoregressive else text.replace(", beam 1", "").replace("beam", "candidates")
    )


def open_entry(entry: Entry, files: ModelFolder, args: argparse.Namespace, device: str) -> Runner:
    """Make the runner of an entry.

    Raises:
        UserError: it cannot run here.
    """
    options = arguments.runner_options(args)
    if files.autoregressive:
        options |= {"beam": entry.beam, "len_penalty": entry.len_penalty}
    try:
        runner = create(entry.runner, files, entry.precision, device, **options)
    except Unavailable as reason:
        raise UserError(f"{files.argument}:{entry.runner}:{entry.precision}: {reason}") from reason
    if files.autoregressive or entry.beam is None:
        return runner
    return Rescoring.of(files, entry.beam, None, device, args.threads).wrap(runner)


def measure(
    translators: dict[str, LineTranslator], lines: Sequence[str], repeats: int
) -> dict[str, dict[str, Any]]:
    """Translate ``lines`` with each, ``repeats`` times.

    Returns:
        Of the fastest pass: seconds, processor seconds, the process' resident memory after it, and (text,
        tokens), by name.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, translator in translators.items():
        for _ in range(repeats):
            start, cpu_start = time.perf_counter(), time.process_time()
            translations = translator.translate(lines)
            seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
            if name not in found or seconds < found[name]["seconds"]:
                pairs = [(translation.text, translation.tokens) for translation in translations]
                found[name] = {
                    "seconds": seconds,
                    "cpu_s": cpu_s,
                    "resident_mib": resident_memory() >> 20,
                    "translations": pairs,
                }
    return found


def read_part(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return a part that was measured with these settings.

    Raises:
        UserError: it was measured with others, or is damaged.
    """
    remedy = "remove it, and measure the part again"
    part = read_json(path, remedy)
    with used(path, "a part of this measurement", remedy):
        if part["settings"] != settings:
            raise UserError(f"the parts in {path.parent} are of different runs; remove them")
        for name in settings["entries"]:
            entry = part["entries"][name]
            for key in ("seconds", "cpu_s", "resident_mib"):
                if not 0 < entry[key] <= MAX_NUMBER:
                    raise ValueError(f"{key} is {str(entry[key])[:20]}")
            for text, tokens in entry["translations"]:
                if (type(text), type(tokens)) != (str, int):
                    raise TypeError(f"a translation of {type(text).__name__}")
    return part


def summarise(
    parts: Sequence[dict[str, Any]],
    sources: Sequence[str],
    references: Sequence[str],
    kinds: Sequence[str],
    tokenizer: Tokenizer,
) -> list[dict[str, Any]]:
    """Return a row of the table for each entry of the parts, which are in the order of the text.

    The parts may have the text several times.
    """
    rows = []
    for name in parts[0]["entries"]:
        own = [part["entries"][name] for part in parts]
        seconds, cpu_s = (sum(part[key] for part in own) for key in ("seconds", "cpu_s"))
        every = [Translation(*pair) for part in own for pair in part["translations"]]
        texts = every[: len(sources)]
        copies = zip(every, itertools.cycle(texts), strict=False)
        rows.append(
            {
                "name": name,
                "sentences": len(every),
                "seconds": round(seconds, 3),
                "sentences_per_s": round(len(every) / seconds, 3),
                "cpu_s": round(cpu_s, 3),
                "sentences_per_cpu_s": round(len(every) / cpu_s, 3),
                "seconds_of_parts": [round(part["seconds"], 3) for part in own],
                "resident_mib_of_parts": [part["resident_mib"] for part in own],
                "unequal_copies": sum(copy.text != first.text for copy, first in copies),
                **score(texts, references, tokenizer),
                **quality.details(sources, references, texts, tokenizer, kinds),
            }
        )
    return rows


def markdown(results: dict[str, Any]) -> str:
    """Return the results as a Markdown page."""
    lines = [
        quality.markdown("Quality against speed", results),
        "## Speed",
        "",
        "Text in, text out. Processor seconds are those of all threads; other programs on the machine change "
        "them little.",
        "",
        *TABLE.markdown(results["rows"]),
        "",
    ]
    return "\n".join(lines)


def plot(results: dict[str, Any], path: Path) -> None:
    """Plot BLEU over lines per second, one line per model and runner, as a PNG at ``path``.

    Labels leave out a length penalty that all searches have.
    """
    penalties = {text for row in results["rows"] for text in PENALTY.findall(row["name"])}
    shared = penalties.pop() if len(penalties) == 1 else ""
    series: dict[str, dict[str, tuple[float, float]]] = {}
    for row in results["rows"]:
        model, rest = row["name"].removesuffix(shared).split(", ", 1)
        runner, label = rest.split(" ", 1)
        series.setdefault(f"{model}, {runner}", {})[label] = (row["sentences_per_s"], row["bleu"])
    title = machine_name(results["machine"])
    plots.points(path, title, series, "sentences per second", "BLEU")


def parse_part(text: str) -> tuple[int, int]:
    """Parse ``2/4``, part and number of parts; raises ``UserError`` for something else."""
    match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
    part, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= part <= count:
        raise UserError(f"--part {text!r} is not a part and the number of parts, such as 2/4")
    return part, count


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(prog="python -m trt_code.measure.trade_off", description=first_line(__doc__))
    arguments.add_build_dir(parser)
    arguments.add_machine(parser)
    parser.add_argument(
        "--entry",
        action="append",
        required=True,
        help="model:runner:precision[:beam or candidates[:lenpen]]; may be given several times",
    )
    arguments.add_lenpen(parser)
    arguments.add_split(parser)
    arguments.add_count(
        parser, "--lines", None, "repeat the text to this many lines", arguments.MAX_LINES
    )
    parser.add_argument(
        "--part", type=parse_part, help="only this part, e.g. 2/4; default: all of 4"
    )
    arguments.add_count(
        parser,
        "--repeats",
        1,
        "passes over each part, of which the fastest counts; on a GPU the first one captures graphs",
    )
    arguments.add_count(
        parser,
        "--warm-up",
        WARM_UP_LINES,
        "lines that each translates before; on a GPU enough of them capture most graphs",
    )
    arguments.add_output(parser, "build/trade_off")
    args = parser.parse_args(argv)
    device = arguments.device(args)
    entries = [Entry.parse(text, args.lenpen) for text in args.entry]
    models = [find_model(entry.model, args.build_dir) for entry in entries]
    splits = [
        tuple(side[: args.limit] for side in read_split(model, args.split)) for model in models
    ]
    if any(split != splits[0] for split in splits):
        raise UserError("the models have different test texts; give models with the same one")
    sources, references = splits[0]
    lines = args.lines or len(sources)
    if lines < len(sources):
        raise UserError(f"--lines {lines} is less than the text has; use --limit {lines}")
    text = list(itertools.islice(itertools.cycle(sources), lines))
    tokenizers = [Tokenizer.from_files(model) for model in models]
    chosen, count = args.part or (None, PARTS)
    size = -(-lines // count)
    with contextlib.ExitStack() as open_runners:
        translators = {}
        for entry, model, tokenizer in zip(entries, models, tokenizers, strict=True):
            runner = open_runners.enter_context(open_entry(entry, model, args, device))
            translator = LineTranslator(runner, tokenizer, too_long="cut", unknown="keep")
            translator.translate(text[: args.warm_up])
            translators[title(entry, model)] = translator
        settings = {
            "split": args.split,
            "lines": lines,
            "repeats": args.repeats,
            "warm_up": args.warm_up,
            "entries": list(translators),
            "text": hashlib.sha256("\n".join([*sources, *references]).encode()).hexdigest(),
            "checkpoints": [sha256_of(model.checkpoint) for model in models],
        }
        for part in [chosen] if chosen else range(1, count + 1):
            own = text[(part - 1) * size : part * size]
            found = {"settings": settings, "entries": measure(translators, own, args.repeats)}
            path = args.output / f"part-{part}-of-{count}.json"
            write_files(args.output, {path.name: json.dumps(found) + "\n"})
            print(f"part {part} of {count}: {len(own)} lines, {path}", flush=True)
    paths = [args.output / f"part-{part}-of-{count}.json" for part in range(1, count + 1)]
    if missing := [path.name for path in paths if not path.is_file()]:
        print(f"still to be measured: {', '.join(missing)}")
        return
    parts = [read_part(path, settings) for path in paths]
    kinds = quality.read_kinds(models[0].test_src.with_stem(args.split))[: len(sources)]
    with used(args.output, "a folder with all parts", "remove it, and measure again"):
        rows = summarise(parts, sources, references, kinds, tokenizers[0])
    print(f"\n{TABLE.head()}", *map(TABLE.line, rows), sep="\n")
    results = {
        "machine": describe(device, args.threads),
        "split": args.split,
        "sentences": len(sources),
        "parts": count,
        "repeats": args.repeats,
        "warm_up": args.warm_up,
        "rows": rows,
    }
    write_files(
        args.output,
        {
            "results.json": as_json(results),
            "results.md": markdown(results),
            "results.png": functools.partial(plot, results),
        },
    )
    print(f"\nwrote {args.output}/results.json, .md and .png")


if __name__ == "__main__":
    run(main)
