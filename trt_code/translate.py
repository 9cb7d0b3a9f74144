"""Translate text: ``make translate TEXT="..."``, or sentences on stdin, one a line.

Translations go to stdout in the order of the input, everything else to stderr. Exit status 2 and one
line for what cannot be translated.
"""

import contextlib
import itertools
import sys
from collections.abc import Iterable, Iterator

from train_model.cli import Parser, UserError, run, standard_input
from train_model.data.tokenizer import Tokenizer
from train_model.model_folder import find_model
from train_model.progress import Task, task
from trt_code import arguments
from trt_code.runners import RUNNERS, Runner, Unavailable, create
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
    first_line = 1
    with contextlib.ExitStack() as bar:
        shown: Task | None = None
        while window := list(itertools.islice(lines, WINDOW)):
            if len(window) > LONG_INPUT and first_line == 1:
                shown = bar.enter_context(task("translating", unit="lines"))
            if shown and len(window) < WINDOW:  # the last one: now the end is known
                shown.total = first_line - 1 + len(window)
            done = shown.advance if shown else lambda count: None
            for translation in translator.translate(window, first_line, done):
                print(translation.text)
            sys.stdout.flush()
            first_line += len(window)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m trt_code.translate", description=__doc__)
    parser.add_argument("text", nargs="*", help="sentences; stdin, one a line, where none is given")
    arguments.add_model(parser)
    arguments.add_machine(parser)
    arguments.add_runner(parser)
    arguments.add_batching(parser, MAX_TOKENS, MAX_SENTENCES)
    parser.add_argument("--too-long", choices=["refuse", "cut"], default="refuse")
    parser.add_argument("--unknown", choices=["refuse", "keep"], default="refuse")
    arguments.add_search(parser)
    args = parser.parse_args(argv)

    files = find_model(args.model, args.build_dir).require_text()
    if args.text == [""]:
        raise UserError("the text is empty; give a sentence to translate")
    options = arguments.runner_options(args) | arguments.search_options(files.autoregressive, args)
    tokenizer = Tokenizer.from_files(files)
    device = arguments.device(args)
    lines = iter(args.text) if args.text else read_lines(standard_input())
    with open_runner(args.runner, files, args.precision, device, **options) as runner:
        translator = Translator(
            runner,
            tokenizer,
            args.max_tokens,
            args.max_sentences,
            args.too_long,
            args.unknown,
        )
        translate_stream(lines, translator)


if __name__ == "__main__":
    run(main)
