"""Measures the quality of translations with one or more runners: ``make eval``.

Exact match, length accuracy (the translation has as many tokens as the reference), BLEU and chrF
(sacrebleu) over a whole split. Writes ``build/eval/<model>.<split>.json`` and ``.md`` with intervals, scores
by kind of text and length, and rates of failures, and each runner's translations as text.
"""

import time
from pathlib import Path
from typing import Any

import sacrebleu

from train_model.cli import Parser, UserError, run
from train_model.data.files import read_lines
from train_model.data.tokenizer import Tokenizer, normalise
from train_model.model_folder import ModelFolder, find_model
from train_model.progress import task
from train_model.tables import Column, Table, as_json, write_files
from trt_code import arguments
from trt_code.measure.machine import describe
from trt_code.measure.quality import details, markdown, read_kinds
from trt_code.runners import Unavailable, create
from trt_code.text.codec import Translation
from trt_code.text.translator import LineTranslator

TABLE = Table(
    [
        Column("runner", "name", width=28, left=True),
        Column("exact", "exact_match", ".2f"),
        Column("length", "length_accuracy", ".2f"),
        Column("BLEU", "bleu", ".2f"),
        Column("chrF", "chrf", ".2f"),
        Column("sentences/s", "sentences_per_s", ".0f", 13),
    ]
)


def read_split(files: ModelFolder, split: str) -> tuple[list[str], list[str]]:
    """Return the sources and references of ``split``, from the folder of the model's test split.

    Raises:
        UserError: the model has no text, the split is missing or empty, or its sides differ in length.
    """
    files.require_test()
    if Path(split).name != split:
        raise UserError(f"{split!r} is not a name of a split; try --split test")
    paths = [test.with_name(split + test.suffix) for test in (files.test_src, files.test_tgt)]
    for path in paths:
        if not path.is_file():
            raise UserError(f"no {path}, so {files.name} has no split {split!r}; try --split test")
    sources, references = (list(read_lines(path)) for path in paths)
    if len(sources) != len(references):
        lengths = f"{len(sources)} sources and {len(references)} references"
        raise UserError(f"split {split} of {files.name} has {lengths}; get its files again")
    if not any(map(normalise, sources)):
        raise UserError(f"{paths[0]} has no sentence in it; get its files again")
    return sources, references


def score(
    translations: list[Translation], references: list[str], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Return percentages and sacrebleu's scores, with one decimal more than printed, and its signature."""
    texts = [translation.text for translation in translations]
    pairs = list(zip(translations, references, strict=True))
    exact = sum(translation.text == reference for translation, reference in pairs)
    length = sum(t.tokens == len(tokenizer.target_units(reference)) + 2 for t, reference in pairs)
    bleu = sacrebleu.BLEU()
    return {
        "exact_match": round(100 * exact / len(pairs), 3),
        "length_accuracy": round(100 * length / len(pairs), 3),
        "bleu": round(bleu.corpus_score(texts, [references]).score, 3),
        "chrf": round(sacrebleu.CHRF().corpus_score(texts, [references]).score, 3),
        "bleu_signature": str(bleu.get_signature()),
    }


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m trt_code.evaluate", description=__doc__)
    arguments.add_model(parser)
    arguments.add_machine(parser)
    arguments.add_runners(parser, "fp32,fp16")
    arguments.add_split(parser)
    arguments.add_output(parser, "build/eval")
    arguments.add_search(parser)
    arguments.add_rescoring(parser)
    args = parser.parse_args(argv)

    files = find_model(args.model, args.build_dir)
    sources, references = read_split(files, args.split)
    kinds = read_kinds(files.test_src.with_stem(args.split))[: args.limit]
    sources, references = sources[: args.limit], references[: args.limit]
    tokenizer = Tokenizer.from_files(files)
    device = arguments.device(args)
    options = arguments.runner_options(args) | arguments.search_options(files.family, args)
    rescoring = arguments.rescoring(files, args, device)
    machine = describe(device, args.threads)
    title = f"{files.name}, split {args.split}, {len(sources)} sentences"
    if rescoring:
        title += f", {rescoring.candidates} candidates, judge {rescoring.judge.name}"
    print(f"{title}\n\n{TABLE.head()}", flush=True)
    rows, texts = [], {}
    for name in args.runner:
        for precision in args.precision:
            title = f"{name} {precision} ({device})"
            try:
                runner = create(name, files, precision, device, **options)
                runner = rescoring.wrap(runner) if rescoring else runner
            except Unavailable as reason:
                print(f"{title:<28}{reason.row}")
                continue
            with runner:
                start = time.perf_counter()
                translator = LineTranslator(runner, tokenizer, unknown="keep")
                with task(title, len(sources), "sentences") as shown:
                    translations = translator.translate(sources, done=shown.advance)
                seconds = time.perf_counter() - start
            row = {"name": title, "sentences_per_s": round(len(sources) / seconds, 1)}
            row |= score(translations, references, tokenizer)
            rows.append(row | details(sources, references, translations, tokenizer, kinds))
            texts[f"{name}.{precision}"] = [translation.text for translation in translations]
            print(TABLE.line(rows[-1]), flush=True)
    if not rows:
        raise UserError("none of the runners can run here; see the reasons above")
    results = {"model": files.name, "split": args.split, "sentences": len(sources)}
    if rescoring:
        results |= {"candidates": rescoring.candidates, "judge": rescoring.judge.name}
    results |= {"machine": machine, "rows": rows}
    stem = f"{files.name}.{args.split}"
    pages = {f"{stem}.json": as_json(results), f"{stem}.md": markdown(files.name, results)}
    written = {f"{stem}.{name}.txt": "\n".join([*lines, ""]) for name, lines in texts.items()}
    write_files(args.output, pages | written)
    print(f"\nwrote {args.output / stem}.json, .md and the translations")


if __name__ == "__main__":
    run(main)
