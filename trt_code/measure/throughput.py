"""Measures the throughput from text to text: ``make throughput``.

Translates the model's test split, and a file of many lines (or as many sentences of the demo's corpus),
through ``trt_code.text.pipeline``: encoding, sorting by length, batches by tokens, the network, decoding,
all at once. Prints sentences and tokens per second and the time of each stage; writes ``throughput.json``
and ``.md``.
"""

import contextlib
import functools
import math
import subprocess
import tempfile
import time
from typing import Any

from train_model.cli import Parser, UserError, path_argument, run
from train_model.data.files import decode_lines, read_lines
from train_model.data.tokenizer import Tokenizer, normalise
from train_model.model_folder import ModelFolder, find_model
from train_model.tables import Column, Table, as_json, facts, page, write_files
from trt_code import arguments
from trt_code.devices import processors
from trt_code.measure.machine import describe
from trt_code.runners.memory import resident_memory
from trt_code.text.choice import another, open_runner
from trt_code.text.codec import Codec
from trt_code.text.pipeline import MAX_SENTENCES, MAX_TOKENS, Pipeline, start_processes

SEED = 20261122
"""Seed of the generated sentences, which no corpus of the project uses."""
WARM_UP_LINES = 16_384
BUSY_EVERY_MS = 100
MEMORY_AT = 0.1, 0.5, 1  # shares of the lines
LEAST_SAMPLES = 5  # per pass; fewer samples give no meaningful share


def make_codec(files: ModelFolder) -> Codec:
    """Return a codec that cuts long sentences and keeps unknown units, as ``make eval`` does."""
    return Codec(Tokenizer.from_files(files), too_long="cut", unknown="keep")


def generate(count: int) -> list[str]:
    """Generate ``count`` English sentences of the demo's task.

    Raises:
        UserError: a package that makes them is missing.
    """
    try:
        from train_model.data.corpora.demo import sentences
    except ImportError as error:
        raise UserError(f"{error}; install it (make env), or give a file with --text") from error
    pairs = sentences.generate({"train": count, "valid": 0, "test": 0}, SEED)["train"]
    return [pair.source for pair in pairs]


class GpuBusy:
    """Measures the share of time in which a kernel ran on a GPU, as sampled by the driver.

    Use it as a context manager; ``share`` is None without ``nvidia-smi`` or after too short a time.

    Args:
        name: of the GPU for ``nvidia-smi``; None measures nothing.
    """

    share: float | None = None

    def __init__(self, name: str | None) -> None:
        self._name, self._process = name, None

    def __enter__(self) -> "GpuBusy":
        self._log = tempfile.TemporaryFile("w+")
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        command += [f"--id={self._name}", f"--loop-ms={BUSY_EVERY_MS}"]
        with contextlib.suppress(OSError):
            if self._name:
                self._process = subprocess.Popen(
                    command, stdout=self._log, stderr=subprocess.DEVNULL
                )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._log.seek(0)
            samples = [int(line) for line in self._log.read().split() if line.isdecimal()]
            if len(samples) >= LEAST_SAMPLES:
                self.share = sum(samples) / len(samples) / 100
        self._log.close()


def gpu_name(device: str) -> str | None:
    """Return the name that ``nvidia-smi`` has for PyTorch's current GPU; None on a CPU."""
    if device == "cpu":
        return None
    import torch

    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"


def measure(
    name: str, lines: list[str], pipeline: Pipeline, repeats: int, gpu: str | None
) -> dict[str, Any]:
    """Translate the first lines untimed, then all lines ``repeats`` times; return the fastest pass.

    The untimed pass starts processes, fills caches and captures graphs of most shapes. ``gpu`` is the name of
    the GPU, see ``GpuBusy``.
    """
    for _ in pipeline.translate(lines[:WARM_UP_LINES]):
        pass
    best: dict[str, Any] = {}
    marks = [math.ceil(share * len(lines)) for share in MEMORY_AT]
    for _ in range(repeats):
        pipeline.spent = type(pipeline.spent)()
        with GpuBusy(gpu) as busy:
            resident, count = [], 0
            start = time.perf_counter()
            for window in pipeline.windows(lines):
                count += len(window.texts)
                while len(resident) < len(marks) and count >= marks[len(resident)]:
                    resident.append(resident_memory() >> 20)
            seconds = time.perf_counter() - start
        spent = pipeline.spent
        if not best or seconds < best["seconds"]:
            best = {
                "text": name,
                "sentences": count,
                "seconds": seconds,
                "sentences_per_s": count / seconds,
                "source_tokens_per_s": spent.source_tokens / seconds,
                "target_tokens_per_s": spent.target_tokens / seconds,
                "padding_share": 1 - spent.source_tokens / spent.padded_tokens,
                "batches": spent.batches,
                "network_s": spent.network,
                "encode_s": spent.encode,
                "decode_s": spent.decode,
                "gpu_busy": busy.share,
                "resident_mib": " ".join(map(str, resident)),
            }
    return best


TABLE = Table(
    [
        Column("text", "text", width=28, left=True),
        Column("sentences", "sentences", width=10),
        Column("seconds", "seconds", ".2f", 9),
        Column("sent./s", "sentences_per_s", ".0f", 9),
        Column("tokens/s", "source_tokens_per_s", ".0f", 10),
        Column("network s", "network_s", ".2f", 11),
        Column("encode s", "encode_s", ".2f", 10),
        Column("decode s", "decode_s", ".2f", 10),
        Column("GPU busy", "gpu_busy", ".0%", 10),
        Column("RSS, MiB", "resident_mib", width=15),
    ]
)
NOTE = (
    "Tokens are source tokens with bos and eos, without padding. Network: seconds inside the runners, "
    "summed over them. Encode and decode: processor seconds, summed over the processes. GPU busy: the "
    "driver's share of time with a kernel running, sampled. RSS: resident memory of the main process, with "
    "the runners, after 10, 50 and 100 % of the sentences."
)


def markdown(results: dict[str, Any]) -> str:
    """Return the whole run as a Markdown page."""
    items = facts(results["machine"] | results["settings"])
    return page(
        f"Text in, text out: {results['model']}", items, NOTE, TABLE.markdown(results["rows"])
    )


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(prog="python -m trt_code.measure.throughput", description=__doc__)
    arguments.add_model(parser)
    arguments.add_machine(parser)
    arguments.add_runner(parser)
    parser.add_argument("--text", type=path_argument, help="a file with one sentence per line")
    arguments.add_count(
        parser,
        "--generate",
        100_000,
        "sentences of the demo's task, if no file is given",
        arguments.MAX_LINES,
    )
    arguments.add_count(
        parser,
        "--runners",
        2,
        "batches at a time; each has a copy of the network, except in the runner native",
        arguments.MAX_THREADS,
    )
    arguments.add_count(
        parser, "--processes", processors(), "for encoding and decoding", arguments.MAX_THREADS
    )
    arguments.add_batching(parser, MAX_TOKENS, MAX_SENTENCES)
    arguments.add_count(parser, "--repeats", 2, "timed passes; the fastest counts")
    arguments.add_output(parser, "build/throughput")
    arguments.add_search(parser)
    arguments.add_rescoring(parser)
    args = parser.parse_args(argv)
    files = find_model(args.model, args.build_dir).require_text()
    if args.text:
        with args.text.open("rb") as stream:
            texts = {args.text.name: list(decode_lines(stream, str(args.text), "surrogateescape"))}
    else:
        texts = {f"{args.generate} generated": generate(args.generate)}
    if files.test_src is not None:
        texts = {"test split": list(read_lines(files.test_src))} | texts
    for name, lines in texts.items():
        if not any(map(normalise, lines)):
            raise UserError(f"{name} has no sentence in it; give another file with --text")
    device = arguments.device(args)
    options = arguments.runner_options(args) | arguments.search_options(files.family, args)
    rescoring = arguments.rescoring(files, args, device)
    open_one = functools.partial(
        open_runner, args.runner, files, args.precision, device, rescoring=rescoring, **options
    )
    first = open_one()
    runners = [first, *(another(first, open_one) for _ in range(args.runners - 1))]
    max_tokens = args.max_tokens or MAX_TOKENS[device]
    settings = {
        "runner": f"{args.runners} x {runners[0].name} {args.precision} ({device})",
        "processes": args.processes,
        "batch": f"{max_tokens} tokens, {args.max_sentences} sentences at most",
    }
    rows, gpu = [], gpu_name(device)
    pool = start_processes(functools.partial(make_codec, files), args.processes)
    with Pipeline(pool, runners, max_tokens, args.max_sentences) as pipeline:
        print(f"{settings['runner']}, {args.processes} processes\n\n{TABLE.head()}", flush=True)
        for name, lines in texts.items():
            rows.append(measure(name, lines, pipeline, args.repeats, gpu))
            print(TABLE.line(rows[-1]), flush=True)
    for runner in dict.fromkeys(runners):
        runner.close()
    machine = describe(device, args.threads)
    results = {"model": files.name, "machine": machine, "settings": settings, "rows": rows}
    files = {"throughput.json": as_json(results), "throughput.md": markdown(results)}
    write_files(args.output, files)
    print(f"\nwrote {args.output}/throughput.json and .md")


if __name__ == "__main__":
    run(main)
