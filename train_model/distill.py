"""Sequence-level distillation: makes a corpus with an autoregressive teacher's translations as targets.

    python -m train_model.distill --corpus demo --teacher build/demo-ar/checkpoint.pt
    python -m train_model.train --recipe demo --distilled

A non-autoregressive network learns more easily from one teacher's consistent translations than from many
people's (Kim and Rush 2016, arXiv 1606.07947; Zhou et al. 2020, arXiv 1911.02727). Sources, validation
and test stay as they are. A stopped run continues where it stopped.
"""

import collections
import contextlib
import functools
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from train_model import fairseq_compat, ray_cluster
from train_model.cli import (
    MAX_NUMBER,
    Parser,
    UserError,
    add_count,
    atomic_path,
    first_line,
    number,
    path_argument,
    run,
)
from train_model.data.binary import binary_files, check_splits, write_binary
from train_model.data.corpora import DISTILLED, prepare
from train_model.data.dictionary import PAD, Dictionary
from train_model.data.files import claim, copy, files_in, sha256_of, step
from train_model.data.filtering import PairFilter
from train_model.documents import WRONG_FORM, read_json, used
from train_model.models.architectures import architecture_of
from train_model.models.beam_search import Hypothesis, beam_search
from train_model.models.checkpoint import load_checkpoint
from train_model.models.hypotheses import MAX_BEAM, SearchOptions, check_beam
from train_model.models.incremental import IncrementalDecoder
from train_model.progress import task

PART = 16384
"""Sentences per written part; a stopped run loses at most one part."""
NO_FILTER = PairFilter()
MAX_TOKENS = {"cpu": 8192, "cuda": 32768}
"""Source tokens per batch, padding included."""


@dataclass(frozen=True)
class Teacher:
    """The translation of a corpus; it is copied to the actors of a cluster.

    Attributes:
        checkpoint: of an autoregressive network with the corpus' dictionaries.
        sources: path of the training sources in fairseq's binary form, without its ending.
        languages: source and target.
        options: of the search.
        n_best: translations of each source.
        device: "cpu" or "cuda".
    """

    checkpoint: str | os.PathLike
    sources: Path
    languages: tuple[str, str]
    options: SearchOptions
    n_best: int
    device: str

    def load(self) -> Callable[[Path, range], None]:
        """Load the network; returns a function that translates some rows and writes them to a file."""
        model = _load_teacher(self.checkpoint, self.sources.parent, self.languages).to(self.device)
        sources = _read_sources(self.sources)
        return lambda path, rows: _write_part(path, model, sources, rows, self)


Part = tuple[Path, range]
"""The file of a part, and its rows of the corpus."""


def distill(
    corpus: str,
    teacher: str | os.PathLike,
    options: SearchOptions,
    languages: tuple[str, str] = ("en", "de"),
    build_dir: str | os.PathLike = "build",
    device: str = "cpu",
    n_best: int = 1,
    pair_filter: PairFilter = NO_FILTER,
    write_parts: Callable[[Teacher, list[Part]], Iterator[int]] | None = None,
) -> Path:
    """Translate the training sources of ``corpus``; return the folder of the new corpus' binary data.

    Args:
        corpus: a name in ``train_model.data.corpora``.
        teacher: checkpoint of an autoregressive network with the corpus' dictionaries.
        options: the teacher's search options.
        languages: source and target.
        build_dir: the folder of the corpora, in ``data``.
        device: the device on which the teacher runs, "cpu" or "cuda".
        n_best: translations of each source; each becomes a pair of its own.
        pair_filter: drops pairs; their counts are in ``pairs.json`` next to the binary data.
        write_parts: writes the parts and yields the number of rows of each, in any order; by default this
            process writes them.

    Raises:
        UserError: the corpus or the teacher is missing, or they do not belong together, or no pair is left.
    """
    check_beam(options.beam, n_best)
    original = prepare(corpus, build_dir)
    folder = Path(build_dir) / "data" / f"{corpus}{DISTILLED}"
    stem = original / f"train.{'-'.join(languages)}.{languages[0]}"
    plan = Teacher(Path(teacher).resolve(), stem.resolve(), languages, options, n_best, device)
    # checked before claim removes an earlier corpus
    network = _load_teacher(teacher, original, languages)
    options.check_vocabulary(network.config.tgt_vocab)
    check_splits(original)
    sources = _read_sources(stem)
    settings = {
        "corpus": {path.name: sha256_of(path) for path in files_in(original)},
        "teacher": sha256_of(teacher),
        "search": vars(options),
        "n_best": n_best,
    }
    claim(folder, settings)
    parts = [
        (
            folder.resolve() / "parts" / f"{start:09d}.npz",
            range(start, min(start + PART, len(sources))),
        )
        for start in range(0, len(sources), PART)
    ]
    todo = [part for part in parts if not part[0].is_file()]
    # closed before an error is printed, so that its message starts on a new line
    with task("teacher", len(sources), "sentences") as bar:
        bar.advance(len(sources) - sum(len(rows) for _, rows in todo))
        for count in (write_parts or _write_here)(plan, todo):
            bar.advance(count)
    return _write_corpus(
        folder, original, [path for path, _ in parts], sources, languages, pair_filter
    )


def _write_here(teacher: Teacher, parts: list[Part]) -> Iterator[int]:
    write = teacher.load() if parts else None
    for path, rows in parts:
        write(path, rows)
        yield len(rows)


class _Actor:
    """Translates parts on one node of a cluster."""

    def __init__(self, teacher: Teacher) -> None:
        if teacher.device == "cpu":
            torch.set_num_threads(1)
        self._write = teacher.load()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (path,), (start,), (stop,) = batch["path"], batch["start"], batch["stop"]
        error = ""
        try:
            self._write(Path(str(path)), range(int(start), int(stop)))
        except UserError as failure:
            error = str(failure)
        return {"rows": [int(stop) - int(start)], "error": [error]}


def write_on_ray(
    ray: Any, pool: tuple[int, dict[str, Any]], teacher: Teacher, parts: list[Part]
) -> Iterator[int]:
    """Write the parts with a pool of actors, and yield the number of rows of each.

    Args:
        ray: what ``train_model.ray_cluster.connected`` yields.
        pool: the number of actors and their options, from ``train_model.ray_cluster.pool``.
        teacher, parts: see :func:`distill`.

    Raises:
        UserError: a part cannot be written.
    """
    if not parts:
        return
    items = [{"path": str(path), "start": rows.start, "stop": rows.stop} for path, rows in parts]
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    with ray_cluster.one_line():
        dataset = dataset.map_batches(_Actor, fn_constructor_args=(teacher,), **pool[1])
        for result in dataset.iter_rows():
            if result["error"]:
                raise UserError(result["error"])
            yield result["rows"]


def _load_teacher(path: str | os.PathLike, corpus: Path, languages: tuple[str, str]) -> nn.Module:
    model = load_checkpoint(path).model
    if architecture_of(model).family != "autoregressive":
        raise UserError(f"{path} is not an autoregressive network; train one, e.g. RECIPE=demo-ar")
    sizes = tuple(len(Dictionary.load(corpus / f"dict.{name}.txt")) for name in languages)
    if (model.config.src_vocab, model.config.tgt_vocab) != sizes:
        raise UserError(
            f"{path} has vocabularies of {model.config.src_vocab} and {model.config.tgt_vocab} symbols, "
            f"the corpus of {sizes[0]} and {sizes[1]}; give a teacher trained on this corpus"
        )
    return model


def _read_sources(stem: Path):
    fairseq_compat.prepare()
    from fairseq.data import indexed_dataset

    if not stem.with_name(f"{stem.name}.idx").is_file():
        raise UserError(
            f"no {stem}.idx; is --languages the corpus' source and target, in this order?"
        )
    return indexed_dataset.make_dataset(str(stem), impl="mmap")


def _write_part(path: Path, model: nn.Module, sources, rows: range, teacher: Teacher) -> None:
    found: dict[int, list[Hypothesis]] = {}
    decoder = IncrementalDecoder.of(model)
    device = next(model.parameters()).device
    limit = model.config.max_source_positions
    for batch in _batches(sources, rows, MAX_TOKENS[device.type]):
        tokens = [sources[row][-limit:].long() for row in batch]
        source = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=PAD)
        results = beam_search(decoder, source.to(device), teacher.options)
        for row, hypotheses in zip(batch, results, strict=True):
            found[row] = hypotheses[: teacher.n_best]
    best = [one for row in rows for one in found[row]]
    with atomic_path(path) as temporary:
        np.savez(
            temporary,
            tokens=torch.cat([one.tokens for one in best]).cpu().numpy().astype(np.int32),
            lengths=np.array([len(one.tokens) for one in best]),
            scores=np.array([one.score for one in best], np.float32),
            rows=np.repeat(np.array(rows), [len(found[row]) for row in rows]),
        )


def _batches(sources, rows: range, max_tokens: int) -> Iterator[list[int]]:
    """Group rows of similar length into batches of at most ``max_tokens`` tokens."""
    batch: list[int] = []
    for row in sorted(rows, key=lambda row: len(sources[row]), reverse=True):
        if batch and (len(batch) + 1) * len(sources[batch[0]]) > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _write_corpus(
    folder: Path,
    original: Path,
    parts: list[Path],
    sources,
    languages: tuple[str, str],
    pair_filter: PairFilter,
) -> Path:
    """Write the binary data: the pairs that the filter keeps, and everything else as it is."""
    binary, record = folder / "bin", folder / "pairs.json"
    if record.is_file() and _recorded(record, "filter") != vars(pair_filter):
        # made with another filter; the translations are the same
        shutil.rmtree(binary, ignore_errors=True)
    binary.mkdir(exist_ok=True)
    counts = collections.Counter(
        pair_filter.reason(sources[row], tokens, score) or "kept"
        for row, tokens, score in _pairs(parts)
    )
    if not counts["kept"]:
        raise UserError(f"the filter keeps none of {counts.total()} pairs: {dict(counts)}")
    with atomic_path(record) as path:
        path.write_text(json.dumps({"filter": vars(pair_filter), "pairs": counts}, indent=1) + "\n")

    def kept() -> Iterator[tuple[int, Tensor]]:
        for row, tokens, score in _pairs(parts):
            if not pair_filter.reason(sources[row], tokens, score):
                yield row, tokens

    pair = "-".join(languages)
    rows = {languages[1]: (tokens for _, tokens in kept())}
    if counts.total() != len(sources) or len(counts) > 1:
        rows = {languages[0]: (sources[row] for row, _ in kept()), **rows}
    # The training targets are written last, so a corpus that has them is complete.
    stems = {language: binary / f"train.{pair}.{language}" for language in rows}
    for path in files_in(original):
        if not any(path.name.startswith(f"{stem.name}.") for stem in stems.values()):
            step([binary / path.name], lambda path=path: copy(path, binary / path.name))
    for language, stem in stems.items():
        size = len(Dictionary.load(original / f"dict.{language}.txt"))
        step(
            binary_files(stem),
            lambda stem=stem, language=language, size=size: write_binary(
                stem, rows[language], size
            ),
        )
    return binary


def _recorded(record: Path, name: str) -> Any:
    """Return an entry of the record of kept and left-out pairs."""
    remedy = "delete its folder, and distil again"
    content = read_json(record, remedy)
    with used(record, "a record of distilled pairs", remedy):
        return content[name]


def _pairs(parts: list[Path]) -> Iterator[tuple[int, Tensor, float]]:
    """Yield the source's row, the tokens and the score of every translation, in the order of the corpus."""
    for path in parts:
        try:
            with np.load(path) as part:
                tokens = torch.from_numpy(part["tokens"]).split(part["lengths"].tolist())
                rows = [*zip(part["rows"].tolist(), tokens, part["scores"].tolist(), strict=True)]
        except (EOFError, OSError, RuntimeError, zipfile.BadZipFile, *WRONG_FORM) as error:
            raise UserError(f"{path} is damaged; delete it, and distil again") from error
        yield from rows


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(description=first_line(__doc__))
    parser.add_argument("--corpus", default="demo", help="default demo")
    parser.add_argument(
        "--teacher", type=path_argument, required=True, help="autoregressive checkpoint"
    )
    parser.add_argument("--languages", nargs=2, default=["en", "de"], help="default en de")
    add_count(parser, "--beam", 4, "hypotheses; 1 is greedy", MAX_BEAM)
    parser.add_argument("--lenpen", type=number(-10, 10), default=0.6, help="default 0.6")
    add_count(parser, "--n-best", 1, "translations of each source", MAX_BEAM)
    pairs = parser.add_argument_group("pairs to leave out; default: none")
    pairs.add_argument(
        "--max-ratio",
        type=number(1),
        metavar="X",
        help="largest ratio of the longer side to the shorter one",
    )
    add_count(
        pairs,
        "--max-repeats",
        None,
        "how often the same one to four subwords may follow each other",
    )
    pairs.add_argument(
        "--min-score", type=number(-MAX_NUMBER), metavar="X", help="lowest score of a translation"
    )
    parser.add_argument("--build-dir", type=path_argument, default="build", help="default build")
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="default: cuda if there is a GPU",
    )
    parser.add_argument(
        "--ray",
        action="store_true",
        help="translate on a Ray cluster whose nodes share --build-dir; doc/corpora.md",
    )
    ray_cluster.add_arguments(parser)
    arguments = parser.parse_args(argv)
    if not arguments.ray and (arguments.address or arguments.workers):
        raise UserError(
            "--address and --workers are for a run with --ray; add it, or leave them out"
        )
    options = SearchOptions(beam=arguments.beam, len_penalty=arguments.lenpen)
    with contextlib.ExitStack() as stack:
        write_parts = None
        if arguments.ray:
            ray = stack.enter_context(ray_cluster.connected(arguments.address))
            share = arguments.workers, 1, arguments.gpus_per_worker
            pool = ray_cluster.pool(ray, arguments.device, *share)
            write_parts = functools.partial(write_on_ray, ray, pool)
        binary = distill(
            arguments.corpus,
            arguments.teacher,
            options,
            tuple(arguments.languages),
            arguments.build_dir,
            arguments.device,
            arguments.n_best,
            PairFilter(arguments.max_ratio, arguments.max_repeats, arguments.min_score),
            write_parts,
        )
    counts = _recorded(binary.parent / "pairs.json", "pairs")
    print("pairs: " + ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())))
    print(f"ready: {binary}; now python -m train_model.train --recipe ... --distilled")


if __name__ == "__main__":
    run(main)
