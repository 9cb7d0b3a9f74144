"""Translate a corpus of many files on a Ray cluster: ``make translate-corpus IN=folder OUT=folder``.

Reads text, JSON lines and Parquet, also compressed with gzip, zstd, bzip2 or xz: a file, a folder, a glob or
a URL such as s3://bucket/corpus. Writes a shard of the same kind and name for each. The same command
continues a run that was stopped. Exit status: 0; 1 if rows or shards could not be translated; 2 and one line
of explanation if the run cannot go on.
"""

import argparse
import sys
from typing import Any

from train_model import ray_cluster
from train_model.cli import Parser, UserError, run
from train_model.model_folder import ModelFolder, find_model, locate, quantized_checkpoint
from train_model.origin import digest_of
from trt_code import arguments
from trt_code.text.translator import MAX_SENTENCES, MAX_TOKENS

SHOWN = 5
"""Unreadable shards that are named; there can be thousands."""


def make_parser() -> Parser:
    """Return the parser of the program's options."""
    parser = Parser(prog="python -m trt_code.translate_corpus", description=__doc__)
    parser.add_argument("--input", required=True, help="file, folder, glob or URL")
    parser.add_argument("--output", required=True, help="folder or URL; new, or of a stopped run")
    parser.add_argument(
        "--kind",
        choices=["text", "jsonl", "parquet"],
        help="kind of all files; default: by the suffix, text if unknown",
    )
    parser.add_argument(
        "--text-field", default="text", help="the JSON field or the column with the text (text)"
    )
    arguments.add_model(parser)
    arguments.add_device(parser)
    arguments.add_count(parser, "--threads", 1, "processors of an actor", arguments.MAX_THREADS)
    arguments.add_runner(parser)
    arguments.add_batching(parser, MAX_TOKENS, MAX_SENTENCES)
    arguments.add_count(parser, "--n-best", 1, "translations per row", arguments.MAX_BEAM)
    arguments.add_refusals(parser.add_argument_group("text"))
    arguments.add_search(parser)
    ray_cluster.add_arguments(parser)
    parser.set_defaults(build_dir=None)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    files = find_model(args.model, args.build_dir or "build").require_text()
    with ray_cluster.connected(args.address) as ray:
        return translate_corpus(args, files, ray)


def translate_corpus(args: argparse.Namespace, files: ModelFolder, ray: Any) -> int:
    """Translate the shards that are not finished yet; returns the exit status."""
    # imported late, since these need what comes with Ray
    from trt_code.corpus import manifest, on_ray, storage
    from trt_code.corpus.formats import kind_of

    source, names = storage.find(args.input)
    output = storage.locate(args.output)
    # the output's folder may be inside the input's
    if type(source.fs) is type(output.fs):
        names = [name for name in names if not source.join(name).startswith(f"{output.path}/")]
        if not names:
            raise UserError("the input is inside the output; give another folder for the output")
    kinds = {name: args.kind or kind_of(name) for name in names}
    search = arguments.search_options(files.family, args)
    text = {
        "precision": args.precision,
        "unknown": args.unknown,
        "too_long": args.too_long,
    } | search
    checkpoint = digest_of(files.checkpoint)
    settings = {"model": files.name, "checkpoint": checkpoint, "n_best": args.n_best, **text}
    if args.precision == "int8" and args.build_dir:  # a cache calibrates each version by itself
        quantized = quantized_checkpoint(files.name, args.build_dir)
        settings["quantized"] = quantized and digest_of(quantized)
    manifest.claim(output, settings | {"text_field": args.text_field})
    finished = manifest.finished(source, output, list(kinds))
    todo = [name for name in kinds if name not in finished]
    summary = on_ray.Summary()
    if todo:
        device = args.device
        if device == "auto":
            device = "cuda" if ray.cluster_resources().get("GPU") else "cpu"
        options = {
            "runner": args.runner,
            "device": device,
            "build_dir": args.build_dir and str(args.build_dir.resolve()),
            "threads": args.threads,
            "max_tokens": args.max_tokens,
            "max_sentences": args.max_sentences,
            **text,
        }
        model = str(locate(args.model)) if "/" in args.model else args.model
        job = on_ray.Job(source, output, kinds, args.text_field, model, options, args.n_best)
        pool = ray_cluster.pool(ray, device, args.workers, args.threads, args.gpus_per_worker)
        output.remove(manifest.PARTS)  # of a run that was killed
        try:
            with ray_cluster.one_line():
                summary = on_ray.translate(job, todo, ray, *pool)
        finally:
            output.remove(manifest.PARTS)
    for record in finished.values():
        summary.add(record)
    return report(summary, output.url, len(finished))


def report(summary: Any, output: str, before: int) -> int:
    """Print what was done; returns the exit status."""
    unreadable = list(summary.unreadable.items())
    for name, reason in unreadable[:SHOWN]:
        print(f"not translated: {name}: {reason}", file=sys.stderr)
    if len(unreadable) > SHOWN:
        print(f"and {len(unreadable) - SHOWN} more shards", file=sys.stderr)
    print(
        f"{output}: {summary.shards} shards, {summary.rows} rows; {before} shards were finished before"
    )
    if summary.translated:
        peak = max(peak for _, peak in summary.workers.values())
        print(
            f"{summary.translated} rows translated, {summary.rate:.0f} rows/s, "
            f"by {len(summary.workers)} actors of at most {peak:.0f} MB"
        )
    if summary.warned:
        print(f"{summary.warned} rows are unlike the model's training text")
    if summary.rejected:
        print(f"{summary.rejected} rows were rejected; the reasons are in {output}/_rejected")
    return 1 if summary.rejected or unreadable else 0


if __name__ == "__main__":
    run(main)
