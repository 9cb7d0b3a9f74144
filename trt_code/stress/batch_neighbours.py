"""Compares the translations of sentences in a batch with those of each sentence alone, on a model's text.

    python -m trt_code.stress.batch_neighbours --model demo-ar --runner torch --precision fp16 --beam 4

prints a row of the table in doc/reliability.md. Batches have up to 64 random sentences and
random extra padding. ``--policy upstream`` uses the same weights with the original's treatment of padding,
for runners that read the checkpoint. A model without text gets random words.
"""

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train_model.cli import Parser, UserError, add_count, path_argument, run
from train_model.data.tokenizer import Tokenizer
from train_model.model_folder import ModelFolder, find_model
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.models.hypotheses import MAX_BEAM
from trt_code.arguments import MAX_LINES, add_engine, engine_options
from trt_code.evaluate import read_split
from trt_code.runners import PRECISIONS, RUNNERS, Output, Runner, Unavailable, create
from trt_code.text.batching import PAD, pad

SCORE_TOLERANCE = 1e-5
LARGEST_BATCH = 64
FURTHER = 8  # most positions of extra padding
COLUMNS = (
    "model, policy, runner, device, precision, beam, sentences, other tokens, score, tolerances"
)


def score_tolerance(scores: np.ndarray) -> np.ndarray:
    """Return the tolerance [..] in FP32 for the scores of sentences [.., T].

    A CRF's score is the difference of two path scores, each rounded at its own size.
    """
    paths = np.abs(scores.cumsum(-1)).max(-1)
    return SCORE_TOLERANCE + 4 * np.finfo(np.float32).eps * paths


@dataclass(frozen=True)
class Pair:
    """The results of a sentence in a batch and alone, each [T] with the length of the result alone.

    Attributes:
        behind: the batch's tokens after the sentence's end.
    """

    together: Output
    alone: Output
    behind: np.ndarray

    def tokens_agree(self) -> bool:
        return np.array_equal(self.together.tokens, self.alone.tokens)

    def score_difference(self) -> float:
        return float(np.abs(self.together.scores - self.alone.scores).max())

    def tolerance(self) -> float:
        return float(score_tolerance(self.alone.scores))


def pairs(runner: Runner, batches: Iterable[np.ndarray]) -> Iterator[Pair]:
    """Yield the results of each row of ``batches``, each [B, S] padded on the right, with those alone.

    A canvas widens with its batch; the positions after the sentence are padding.
    """
    for batch in batches:
        together = runner.run(batch)
        for i, row in enumerate(batch):
            alone = runner.run(row[None, : (row != PAD).sum()])
            length = int((alone.tokens[0] != PAD).sum())
            yield Pair(
                Output(together.tokens[i, :length], together.scores[i, :length]),
                Output(alone.tokens[0, :length], alone.scores[0, :length]),
                together.tokens[i, length:],
            )


def in_random_batches(
    rows: list[list[int]], largest: int, longest: int, chance: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield the rows in random order, in batches of at most ``largest`` rows and ``longest`` tokens width."""
    order = chance.permutation(len(rows))
    while len(order):
        size = chance.integers(1, largest + 1)
        chosen, order = [rows[i] for i in order[:size]], order[size:]
        width = max(map(len, chosen)) + int(chance.integers(0, FURTHER + 1))
        yield pad(chosen, min(width, longest))


def sources(files: ModelFolder, count: int, longest: int, chance: np.random.Generator) -> list:
    """Return the first lines of the test split as token ids; random words for a model without text."""
    if files.test_src:
        tokenizer = Tokenizer.from_files(files)
        rows = [tokenizer.encode(line) for line in read_split(files, "test")[0][:count]]
        return [row for row in rows if len(row) <= longest]
    vocabulary = load_checkpoint(files.checkpoint).config.src_vocab
    lengths = chance.integers(1, min(longest, 64) - 1, count)
    return [[0, *chance.integers(4, vocabulary, n).tolist(), 2] for n in lengths]


def with_policy(files: ModelFolder, policy: str, folder: Path) -> ModelFolder:
    """Return the same weights with another treatment of padding."""
    loaded = load_checkpoint(files.checkpoint)
    config = dataclasses.replace(loaded.config, padding_policy=policy)
    save_checkpoint(folder / "checkpoint.pt", loaded.model, config)
    return dataclasses.replace(files, checkpoint=folder / "checkpoint.pt")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m trt_code.stress.batch_neighbours", description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--runner", choices=RUNNERS, default="torch")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    add_count(parser, "--beam", 1, "hypotheses of autoregressive networks", MAX_BEAM)
    parser.add_argument(
        "--policy", choices=["masked", "upstream"], help="padding policy; default: the checkpoint's"
    )
    add_count(parser, "--lines", 256, "sentences to translate", MAX_LINES)
    parser.add_argument("--build-dir", type=path_argument, default="build")
    add_engine(parser)
    arguments = parser.parse_args(argv)
    if arguments.policy and RUNNERS[arguments.runner][0].reads != "checkpoint":
        parser.error("--policy is for runners that read the checkpoint")

    files, chance = find_model(arguments.model, arguments.build_dir), np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.policy:
            files = with_policy(files, arguments.policy, Path(folder))
        options = {"threads": 1, "build_dir": arguments.build_dir, "beam": arguments.beam}
        options |= engine_options(arguments)
        try:
            runner = create(
                arguments.runner, files, arguments.precision, arguments.device, **options
            )
        except Unavailable as reason:
            raise UserError(f"{arguments.runner} cannot run here: {reason}") from reason
        with runner:
            longest = runner.max_source or 256
            rows = sources(files, arguments.lines, longest, chance)
            found = list(pairs(runner, in_random_batches(rows, LARGEST_BATCH, longest, chance)))
        policy = load_checkpoint(files.checkpoint).config.padding_policy
    same = [pair for pair in found if pair.tokens_agree()]
    score = max((pair.score_difference() for pair in same), default=0.0)
    allowed = max((pair.score_difference() / pair.tolerance() for pair in same), default=0.0)
    beam = arguments.beam if files.autoregressive else "-"
    print(f"# {COLUMNS}")
    print(
        f"| {files.name} | {policy} | {arguments.runner} | {arguments.device} | {arguments.precision}"
        f" | {beam} | {len(found)} | {len(found) - len(same)} | {score:.1e} | {allowed:.2f} |"
    )


if __name__ == "__main__":
    run(main)
