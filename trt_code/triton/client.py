"""Translate sentences on a running Triton server, many at a time, and measure the speed.

    python -m trt_code.triton.client --url localhost:8001 < sentences.txt > translations.txt

Requests overlap (``--concurrency``), since Triton batches what waits together. ``--measure`` writes the
throughput and latencies to a JSON file, from which ``trt_code.triton.cost`` computes the cost. For more load
than one Python process makes, use NVIDIA's perf_analyzer (doc/serving.md).
"""

import asyncio
import importlib
import json
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from train_model.cli import (
    Parser,
    UserError,
    add_count,
    atomic_path,
    check_output,
    path_argument,
    run,
    standard_input,
)
from train_model.data.files import decode_lines
from train_model.documents import WRONG_FORM
from trt_code.triton.configs import TEXT, TRANSLATE, TRANSLATION, WARNING

TIMEOUT = 120  # seconds


@dataclass(frozen=True)
class Measured:
    """The results and times of one pass over the input.

    Attributes:
        translations: one per sentence, in order.
        warnings: for each sentence why its translation may be wrong, or "".
        latencies_ms: one per request.
        seconds: from the first request to the last answer.
    """

    translations: list[str]
    warnings: list[str]
    latencies_ms: list[float]
    seconds: float


async def translate(
    url: str,
    sentences: Sequence[str],
    concurrency: int = 32,
    batch: int = 1,
    timeout: float = TIMEOUT,
) -> Measured:
    """Translate ``sentences``, none of them blank, on the server at ``url``.

    Args:
        concurrency: requests under way at any time.
        batch: sentences per request. If one sentence is refused, the whole request is.
        timeout: seconds to wait for the answer to a request.

    Raises:
        UserError: no tritonclient, no server, no answer in time, an answer of another form, or a refused
            sentence; the message has its line.
    """
    try:
        grpc = importlib.import_module("tritonclient.grpc.aio")
        errors = importlib.import_module("tritonclient.utils").InferenceServerException
    except ImportError as error:
        raise UserError(
            f"tritonclient cannot be imported ({error}); run `pip install 'tritonclient[grpc]'` in a "
            "separate environment, because it needs an older protobuf than onnx"
        ) from error
    translations, warnings = [""] * len(sentences), [""] * len(sentences)
    latencies: list[float] = []
    starts = iter(range(0, len(sentences), batch))

    async def worker(client) -> None:
        for first in starts:  # shared by all workers: each takes the next one
            texts = sentences[first : first + batch]
            source = grpc.InferInput(TEXT["name"], [len(texts), 1], "BYTES")
            source.set_data_from_numpy(np.array([[text.encode()] for text in texts], object))
            sent = time.perf_counter()
            try:
                result = await client.infer(TRANSLATE, [source], client_timeout=timeout)
            except errors as error:
                raise UserError(f"{url}, line {first + 1}: {error.message()}") from error
            latencies.append((time.perf_counter() - sent) * 1e3)
            for output, received in ((TRANSLATION, translations), (WARNING, warnings)):
                name = output["name"]
                try:
                    rows = result.as_numpy(name)
                    answers = None if rows is None else [row[0].decode() for row in rows]
                except (*WRONG_FORM, struct.error, errors):
                    answers = []
                if answers is None:
                    raise UserError(
                        f"{url}: the served model has no output {name}; write its repository again "
                        "(make triton)"
                    )
                if len(answers) != len(texts) or "\n" in "".join(answers):
                    raise UserError(
                        f"{url}, line {first + 1}: the server's {name} is not one line for each sentence; "
                        "it serves another model, or is not Triton"
                    )
                received[first : first + len(texts)] = answers

    start = time.perf_counter()
    async with grpc.InferenceServerClient(url) as client:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(worker(client))
        except* UserError as failures:
            raise failures.exceptions[0] from None
    return Measured(translations, warnings, latencies, time.perf_counter() - start)


def summary(measured: Measured, **settings) -> dict:
    """Return the content of ``--measure``: rates per second, and latency percentiles in milliseconds."""
    count = len(measured.translations)
    percentiles = np.percentile(measured.latencies_ms, [50, 95, 99])
    return {
        **settings,
        "sentences": count,
        "seconds": measured.seconds,
        "sentences_per_s": count / measured.seconds,
        "latency_ms": dict(zip(("p50", "p95", "p99"), map(float, percentiles), strict=True)),
    }


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(
        prog="python -m trt_code.triton.client",
        description="Translate the sentences on stdin, one per line, on a Triton server.",
    )
    parser.add_argument("--url", default="localhost:8001", help="gRPC address of the server")
    add_count(parser, "--concurrency", 32, "requests under way", 10_000)
    add_count(parser, "--batch", 1, "sentences per request", 1 << 20)
    add_count(parser, "--timeout", TIMEOUT, "seconds to wait for the answer to a request", 86_400)
    parser.add_argument(
        "--measure", type=path_argument, metavar="JSON", help="write rate and latencies"
    )
    args = parser.parse_args(argv)
    if args.measure:
        check_output(args.measure)
    sentences = list(decode_lines(standard_input(), "stdin"))
    for number, sentence in enumerate(sentences, start=1):
        if not sentence.strip():
            raise UserError(f"line {number} is empty; give one sentence per line")
    if not sentences:
        raise UserError("no sentences on stdin; give one per line")
    measured = asyncio.run(
        translate(args.url, sentences, args.concurrency, args.batch, args.timeout)
    )
    for number, warning in enumerate(measured.warnings, start=1):
        if warning:
            print(f"warning: line {number}: {warning}", file=sys.stderr)
    print("\n".join(measured.translations))
    if args.measure:
        settings = {"url": args.url, "concurrency": args.concurrency, "batch": args.batch}
        with atomic_path(args.measure) as temporary:
            temporary.write_text(json.dumps(summary(measured, **settings), indent=2) + "\n")


if __name__ == "__main__":
    run(main)
