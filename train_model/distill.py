"""Sequence-level distillation: makes a corpus with an autoregressive teacher's translations as targets.

    python -m train_model.distill --corpus demo --teacher build/demo-ar/checkpoint.pt
    python -m train_model.train --recipe demo --distilled

A non-autoregressive network learns more easily from one teacher's consistent translations than from many
people's (Kim and Rush 2016, arXiv 1606.07947; Zhou et al. 2020, arXiv 1911.02727). Sources, validation
and test stay as they are. A stopped run continues where it stopped.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from train_model import fairseq_compat
from train_model.cli import Parser, UserError, atomic_path, number, run, whole_number
from train_model.data.binary import write_binary
from train_model.data.corpora import DISTILLED, prepare
from train_model.data.dictionary import PAD, Dictionary
from train_model.data.files import claim, copy, step
from train_model.models.architectures import architecture_of
from train_model.models.beam_search import beam_search
from train_model.models.checkpoint import load_checkpoint
from train_model.models.hypotheses import SearchOptions
from train_model.models.incremental import IncrementalDecoder
from train_model.progress import task

# Sentences per written part; a stopped run loses at most one part.
PART = 16384
MAX_TOKENS = {"cpu": 8192, "cuda": 32768}  # source tokens per batch


def distill(
    corpus: str,
    teacher: str | os.PathLike,
    options: SearchOptions,
    languages: tuple[str, str] = ("en", "de"),
    build_dir: str | os.PathLike = "build",
    device: str = "cpu",
) -> Path:
    """Translate the training sources of ``corpus``; return the folder of the new corpus' binary data.

    Args:
        corpus: a name in ``train_model.data.corpora``.
        teacher: checkpoint of an autoregressive network with the corpus' dictionaries.
        options: the teacher's search options.
        languages: source and target.
        device: the device on which the teacher runs.

    Raises:
        UserError: the corpus or the teacher is missing, or they do not belong together.
    """
    original = prepare(corpus, build_dir)
    folder = Path(build_dir) / "data" / f"{corpus}{DISTILLED}"
    binary = folder / "bin"
    pair, target = "-".join(languages), languages[1]
    model = _load_teacher(teacher, original, languages).to(device)
    identity = hashlib.sha256(Path(teacher).read_bytes()).hexdigest()
    claim(folder, {"corpus": corpus, "teacher": identity, "search": vars(options)})
    sources = _read_sources(original / f"train.{pair}.{languages[0]}")
    parts = [
        (folder / "parts" / f"{start:09d}.npz", range(start, min(start + PART, len(sources))))
        for start in range(0, len(sources), PART)
    ]
    # a context manager, so that an error message starts on a new line after the bar
    with task("teacher", len(sources), "sentences") as bar:
        for path, rows in parts:
            step(
                [path],
                lambda path=path, rows=rows: _write_part(path, model, sources, rows, options),
            )
            bar.advance(len(rows))
    binary.mkdir(exist_ok=True)
    # The training targets are written last, so a corpus that has them is complete.
    for path in sorted(original.iterdir()):
        if not path.name.startswith(f"train.{pair}.{target}."):
            step([binary / path.name], lambda path=path: copy(path, binary / path.name))
    stem = binary / f"train.{pair}.{target}"
    size = len(Dictionary.load(original / f"dict.{target}.txt"))
    step(
        [stem.with_name(f"{stem.name}.{end}") for end in ("bin", "idx")],
        lambda: write_binary(stem, _translations([path for path, _ in parts]), size),
    )
    return binary


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

    return indexed_dataset.make_dataset(str(stem), impl="mmap")


def _write_part(path: Path, model: nn.Module, sources, rows: range, options: SearchOptions) -> None:
    found: dict[int, Tensor] = {}
    decoder = IncrementalDecoder.of(model)
    device = next(model.parameters()).device
    limit = model.config.max_source_positions
    for batch in _batches(sources, rows, MAX_TOKENS[device.type]):
        tokens = [sources[row][-limit:].long() for row in batch]
        source = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=PAD)
        for row, hypotheses in zip(
            batch, beam_search(decoder, source.to(device), options), strict=True
        ):
            found[row] = hypotheses[0].tokens.cpu()
    lengths = np.array([len(found[row]) for row in rows])
    tokens = torch.cat([found[row] for row in rows]).numpy().astype(np.int32)
    with atomic_path(path) as temporary:
        np.savez(temporary, tokens=tokens, lengths=lengths)


def _batches(sources, rows: range, max_tokens: int) -> Iterator[list[int]]:
    """Group rows of similar length into batches of at most ``max_tokens`` tokens."""
    batch: list[int] = []
    for row in sorted(rows, key=lambda row: len(sources[row]), reverse=True):
        if batch and (len(batch) + 1) * len(sources[batch[0]]) > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _translations(parts: list[Path]) -> Iterator[Tensor]:
    for path in parts:
        with np.load(path) as part:
            yield from torch.from_numpy(part["tokens"]).split(part["lengths"].tolist())


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="demo", help="default demo")
    parser.add_argument("--teacher", type=Path, required=True, help="autoregressive checkpoint")
    parser.add_argument("--languages", nargs=2, default=["en", "de"], help="default en de")
    parser.add_argument("--beam", type=whole_number(1), default=4, help="1 is greedy; default 4")
    parser.add_argument("--lenpen", type=number(-10, 10), default=0.6, help="default 0.6")
    parser.add_argument("--build-dir", default="build", help="default build")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda"
    )
    arguments = parser.parse_args(argv)
    options = SearchOptions(beam=arguments.beam, len_penalty=arguments.lenpen)
    binary = distill(
        arguments.corpus,
        arguments.teacher,
        options,
        tuple(arguments.languages),
        arguments.build_dir,
        arguments.device,
    )
    print(f"ready: {binary}; now python -m train_model.train --recipe ... --distilled")


if __name__ == "__main__":
    run(main)
