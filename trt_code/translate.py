"""Translate text: ``make translate TEXT="..."``, or sentences on stdin, one a line.

Translations go to stdout in the order of the input, everything else to stderr. Exit status 2 and one
line for what cannot be translated.
"""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from train_model.cli import UserError, run
from train_model.data.tokenizer import Tokenizer
from train_model.models.zoo import ModelFiles, model_files
from trt_code.measure.machine import default_device, processors
from trt_code.runners import PRECISIONS, RUNNERS, Runner, Unavailable, create
from trt_code.text.translator import MAX_SENTENCES, MAX_TOKENS, Translator

# Lines that are held at a time: sorting by length inside a window this large wastes little padding,
# and input without end needs no memory without end.
WINDOW = 8192
LONG_INPUT = 256
# The fastest first.
PREFERENCE = ("trt-split", "trt", "cuda-graph", "ort-split", "ort", "torch")


def read_lines(stream: Iterable[bytes]) -> Iterator[str]:
    """Decode lines of bytes as UTF-8; what is no UTF-8 becomes U+FFFD, which no dictionary has."""
    for number, line in enumerate(stream):
        text = line.decode("utf-8", errors="replace").removesuffix("\n").removesuffix("\r")
        yield text.removeprefix("\ufeff") if number == 0 else text


def open_runner(name: str, files, precision: str, device: str, **options) -> Runner:
    """The runner ``name``, or for "auto" the fastest that this machine can run.

    Raises:
        UserError: none of them can run; the message has each one's reason.
    """
    reasons = []
    for candidate in PREFERENCE if name == "auto" else [name]:
        if candidate not in RUNNERS:
            continue
        try:
            return create(candidate, files, precision, device, **options)
        except Unavailable as unavailable:
            reasons.append(f"{candidate}: {unavailable}")
    raise UserError(f"cannot run {files.name} in {precision} on {device}: {'; '.join(reasons)}")


def translate_stream(lines: Iterator[str], translator: Translator) -> None:
    """Translate ``lines`` to stdout, window by window, with a progress bar for long input."""
    bar = Progress(
        TextColumn("translating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("lines"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task("", total=None)
    first_line = 1
    with contextlib.ExitStack() as shown:
        while window := list(itertools.islice(lines, WINDOW)):
            if len(window) > LONG_INPUT and first_line == 1:
                shown.enter_context(bar)
            if len(window) < WINDOW:  # the last one: now the end is known
                bar.update(task, total=first_line - 1 + len(window))
            for translation in translator.translate(
                window, first_line, lambda count: bar.advance(task, count)
            ):
                print(translation.text)
            sys.stdout.flush()
            first_line += len(window)


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """fairseq-generate's options of a search."""
    search = parser.add_argument_group(
        "options of fairseq-generate", "for autoregressive models (demo-ar); others have no search"
    )
    search.add_argument("--beam", type=int, help="hypotheses; default 1, greedy")
    search.add_argument("--lenpen", type=float, help="exponent of the length; default 1")
    search.add_argument("--iter-decode-max-iter", type=int, help="does nothing")


def search_options(files: ModelFiles, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a runner takes of them; warns where they mean nothing to the model."""
    if not files.autoregressive:
        warn_about_decoding(arguments)
    return {"beam": arguments.beam, "len_penalty": arguments.lenpen}


def warn_about_decoding(arguments: argparse.Namespace) -> None:
    """Say that the options of beam search do nothing here, rather than give odd results silently."""
    for option, harmless in (("beam", 1), ("iter_decode_max_iter", 0), ("lenpen", 1.0)):
        value = getattr(arguments, option)
        if value is not None and value != harmless:
            print(
                f"warning: --{option.replace('_', '-')} {value} is ignored: the network makes the "
                "whole translation in one pass and a CRF picks the best path, without beam search",
                file=sys.stderr,
            )


def add_count(
    parser: argparse.ArgumentParser, name: str, default: int | None, meaning: str
) -> None:
    """An option that is a whole number of 1 or more; raises ``UserError`` for another value."""

    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise UserError(f"{name} is at least 1, not {text!r}")
        return int(text)

    parser.add_argument(name, type=count, default=default, help=meaning)


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that name a model and where it runs."""
    parser.add_argument("--model", default="demo", help="demo, demo-ar, wmt16 or wmt16-random")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add_count(parser, "--threads", processors(), "CPU threads; default: all")
    parser.add_argument("--build-dir", default="build", help="where the built files are")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m trt_code.translate", description=__doc__)
    parser.add_argument("text", nargs="*", help="sentences; stdin, one a line, where none is given")
    add_runner_arguments(parser)
    parser.add_argument("--runner", choices=["auto", *RUNNERS], default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    add_count(parser, "--max-tokens", MAX_TOKENS, "a batch, with padding")
    add_count(parser, "--max-sentences", MAX_SENTENCES, "a batch")
    parser.add_argument("--too-long", choices=["refuse", "cut"], default="refuse")
    parser.add_argument("--unknown", choices=["refuse", "keep"], default="refuse")
    add_search_arguments(parser)
    arguments = parser.parse_args(argv)

    files = model_files(arguments.model, arguments.build_dir)
    if files.bpe_codes is None:
        raise UserError(f"{files.name} has no text, only random weights; use MODEL=demo or wmt16")
    if arguments.text == [""]:
        raise UserError("the text is empty; give a sentence to translate")
    search = search_options(files, arguments)
    tokenizer = Tokenizer.from_files(files)
    device = default_device() if arguments.device == "auto" else arguments.device
    lines = iter(arguments.text) if arguments.text else read_lines(sys.stdin.buffer)
    options = {"threads": arguments.threads, "build_dir": arguments.build_dir} | search
    with open_runner(arguments.runner, files, arguments.precision, device, **options) as runner:
        translator = Translator(
            runner,
            tokenizer,
            arguments.max_tokens,
            arguments.max_sentences,
            arguments.too_long,
            arguments.unknown,
        )
        translate_stream(lines, translator)


if __name__ == "__main__":
    run(main)
