"""Translate text: ``make translate TEXT="..."``, or sentences on stdin, one per line.

Translations go to stdout in the order of the input, everything else to stderr. On a terminal each line is
translated as it is entered. Exit status: 0; 1 if ``--on-error skip`` left lines out; 2 and one line of
explanation if nothing more can be translated.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator

from train_model.cli import Parser, UserError, run, standard_input
from train_model.data.files import decode_lines, take
from train_model.data.tokenizer import Tokenizer
from train_model.model_folder import ModelFolder, find_model
from train_model.progress import task
from trt_code import arguments
from trt_code.devices import processors
from trt_code.runners import Runner
from trt_code.text.choice import another, open_runner
from trt_code.text.codec import Codec, OnError, TooLong, Translation, Unknown
from trt_code.text.pipeline import MAX_SENTENCES, MAX_TOKENS, Pipeline, start_processes

MANY = 1024
"""From this number of lines on, processes encode and decode, and a GPU has two runners."""
MAX_PROCESSES = 16
"""The most processes for text: they encode more lines than a GPU translates, and each takes time to start."""
LONG_INPUT = 256
"""From this number of lines on, a progress bar is shown."""
PROMPT = "> "


def prompted_lines() -> Iterator[str]:
    """Yield the lines entered on a terminal, up to Ctrl-D."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input a history and line editing)
    with contextlib.suppress(EOFError):
        while True:
            yield input(PROMPT)
    print(file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How lines are translated and written; see ``--help``."""

    max_tokens: int = MAX_TOKENS["cpu"]
    max_sentences: int = MAX_SENTENCES
    too_long: TooLong = "refuse"
    unknown: Unknown | None = None
    on_error: OnError = "stop"
    segmented: bool = False
    n_best: int = 0
    format: str = "text"


def make_codec(files: ModelFolder, settings: Settings) -> Codec:
    """Make the codec of a model, in any process."""
    tokenizer = Tokenizer.from_files(files)
    if settings.segmented:
        options = tokenizer.options.segmented()
        tokenizer = Tokenizer(options, tokenizer.src_dict, tokenizer.tgt_dict)
    return Codec(tokenizer, None, settings.too_long, settings.unknown, settings.on_error)


def written(number: int, source: str, translation: Translation, settings: Settings) -> str:
    """Return the output for a line, without the last newline.

    As text, this is the translation; with hypotheses, the line number, score and translation of each,
    separated by tabs. As JSON, it is one object.
    """
    if settings.format == "json":
        entry = {"line": number, "source": source, "text": translation.text}
        if translation.warning:
            entry["warning"] = translation.warning
        if translation.error:
            entry["error"] = translation.error
        else:
            entry["hypotheses"] = [dataclasses.asdict(one) for one in translation.hypotheses]
        return json.dumps(entry, ensure_ascii=False)
    if not translation.hypotheses:
        return translation.text
    rows = (f"{number}\t{one.score:.4f}\t{one.text}" for one in translation.hypotheses)
    return "\n".join(rows)


def translate_stream(lines: Iterable[str], pipeline: Pipeline, settings: Settings) -> int:
    """Translate ``lines`` to stdout; returns how many were refused.

    Raises:
        UserError: a line is refused and lines are not skipped. The windows before it are written.
    """
    refused, first = 0, 1
    for window in pipeline.windows(lines):
        notes = [window.others[index] for index in sorted(window.others)]
        refused += sum(bool(translation.error) for translation in notes)
        for translation in notes:
            if translation.error:
                print(f"skipped: {translation.error}", file=sys.stderr)
            if translation.warning:
                print(f"warning: {translation.warning}", file=sys.stderr)
        if settings.format == "text" and not settings.n_best:
            texts = window.texts
        else:
            found = zip(window.lines, window.translations(), strict=True)
            texts = [
                written(number, source, translation, settings)
                for number, (source, translation) in enumerate(found, start=first)
            ]
        print("\n".join(texts))
        first += len(window.lines)
    sys.stdout.flush()
    return refused


def converse(lines: Iterator[str], pipeline: Pipeline, settings: Settings) -> None:
    """Translate each line when it arrives; print a message for a refused line."""
    for number, line in enumerate(lines, start=1):
        (translation,) = pipeline.translate([line])
        for note in (translation.error, translation.warning):
            if note:
                print(note.removeprefix("line 1: "), file=sys.stderr)
        if not translation.error:
            print(written(number, line, translation, settings), flush=True)


def count_processes(device: str, many: bool) -> int:
    """Return how many processes encode and decode: for a file on a GPU, otherwise the network needs them."""
    return min(MAX_PROCESSES, max(1, processors() - 2)) if many and device == "cuda" else 0


def start_runners(open_one: Callable[[], Runner], many: bool) -> list[Runner]:
    """Return the runners of a pipeline.

    For a file, a GPU gets two runners, so that the copies of one overlap with the work of the other. A runner
    whose calls share threads is called twice at a time, so that no thread waits for the end of a batch.
    """
    first = open_one()
    two = many and (first.shares_threads or first.device == "cuda")
    return [first, another(first, open_one)] if two else [first]


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m trt_code.translate", description=__doc__)
    parser.add_argument("text", nargs="*", help="sentences; without any, stdin, one per line")
    arguments.add_model(parser)
    arguments.add_machine(parser)
    arguments.add_runner(parser)
    arguments.add_batching(parser, MAX_TOKENS, MAX_SENTENCES)
    add_text(parser)
    arguments.add_search(parser)
    arguments.add_rescoring(parser)
    args = parser.parse_args(argv)

    files = find_model(args.model, args.build_dir).require_text()
    if args.text == [""]:
        raise UserError("the text is empty; give a sentence to translate")
    options = arguments.runner_options(args) | arguments.search_options(files.family, args)
    device = arguments.device(args)
    rescoring = arguments.rescoring(files, args, device)
    interactive = not args.text and sys.stdin is not None and sys.stdin.isatty()
    settings = Settings(
        args.max_tokens or MAX_TOKENS[device],
        args.max_sentences,
        args.too_long,
        args.unknown,
        args.on_error or ("skip" if interactive else "stop"),
        args.segmented,
        args.n_best or int(args.scores or args.format == "json"),
        args.format,
    )
    if interactive:
        lines, many = prompted_lines(), False
    else:
        lines = (
            iter(args.text)
            if args.text
            else decode_lines(standard_input(), "stdin", "surrogateescape")
        )
        start = take(lines, MANY)
        many = len(start) == MANY
        lines = itertools.chain(start, lines)
    open_one = functools.partial(
        open_runner,
        args.runner,
        files,
        args.precision,
        device,
        "one" if interactive or len(start) < LONG_INPUT else "many",
        settings.n_best,
        rescoring,
        **options,
    )
    with contextlib.ExitStack() as stack:
        # the processes start while the network is loaded
        codec = functools.partial(make_codec, files, settings)
        pool = stack.enter_context(start_processes(codec, count_processes(device, many)))
        runners = start_runners(open_one, many)
        for runner in dict.fromkeys(runners):
            stack.enter_context(runner)
        done: Callable[[int], None] = lambda count: None  # noqa: E731
        if not interactive and len(start) > LONG_INPUT:
            total = None if many else len(start)
            done = stack.enter_context(task("translating", total, "lines")).advance
        bounds = settings.max_tokens, settings.max_sentences
        pipeline = stack.enter_context(Pipeline(pool, runners, *bounds, settings.n_best, done))
        if interactive:
            converse(lines, pipeline, settings)
            return 0
        return 1 if translate_stream(lines, pipeline, settings) else 0


def add_text(parser: Parser) -> None:
    """Add the options for input and output."""
    text = parser.add_argument_group("text")
    arguments.add_refusals(text)
    text.add_argument(
        "--on-error",
        choices=["stop", "skip"],
        help="a line that is refused ends everything, or is reported and left empty, with exit status 1; "
        "default: stop, on a terminal skip",
    )
    text.add_argument(
        "--segmented",
        action="store_true",
        help="input and output are subword units, separated by spaces",
    )
    text.add_argument("--format", choices=["text", "json"], default="text", help="default: text")
    text.add_argument(
        "--scores", action="store_true", help="write line number, score and translation, with tabs"
    )
    arguments.add_count(
        text, "--n-best", None, "translations per line, with scores; default: 1", arguments.MAX_BEAM
    )


if __name__ == "__main__":
    run(main)
