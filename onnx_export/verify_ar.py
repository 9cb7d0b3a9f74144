"""Checks that the two files of an autoregressive network find what the network finds.

Beam search drives both with the same random sources, over a grid of shapes. Hypotheses must be equal, their
log-probabilities agree within 1e-4. ``onnx_export.verify`` comes here for such a checkpoint.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from onnx_export.onnx_file import read_graph
from onnx_export.paths import half_path
from onnx_export.step_session import StepSession
from train_model.cli import UserError
from train_model.data.dictionary import EOS, PAD, SPECIALS
from train_model.models.beam_search import beam_search
from train_model.models.hypotheses import SearchOptions
from train_model.models.incremental import IncrementalDecoder

SHAPES = ((1, 1), (1, 8), (2, 3), (3, 33), (16, 8))  # batch, source length
BEAMS = (1, 4)
STEPS = 24  # more than the state first has room for
SCORE_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Check:
    """The outcome of one batch."""

    batch: int
    length: int
    beam: int
    hypotheses: int
    different: int
    score_error: float  # the largest absolute difference, over the hypotheses that are equal

    @property
    def good(self) -> bool:
        """Whether the files computed the same."""
        return self.different == 0 and self.score_error <= SCORE_TOLERANCE


def random_source(batch: int, length: int, vocab: int, generator: torch.Generator) -> torch.Tensor:
    """Sentences [batch, length] that end in eos, right-padded; the first fills its row."""
    tokens = torch.randint(len(SPECIALS), vocab, (batch, length), generator=generator)
    sizes = torch.randint(1, length + 1, (batch,), generator=generator)
    sizes[0] = length
    for row, size in zip(tokens, sizes.tolist(), strict=True):
        row[size - 1], row[size:] = EOS, PAD
    return tokens


def verify(model: nn.Module, halves: StepSession, seed: int = 0) -> Iterator[Check]:
    """Search with both over the grid; yield the outcomes as they come."""
    generator = torch.Generator().manual_seed(seed)
    for (batch, length), beam in itertools.product(SHAPES, BEAMS):
        source = random_source(batch, length, model.config.src_vocab, generator)
        options = SearchOptions(beam=beam, max_len_b=STEPS)
        pairs = [
            pair
            for both in zip(
                beam_search(IncrementalDecoder.of(model), source, options),
                beam_search(halves.decoder(), source, options),
                strict=True,
            )
            for pair in zip(*both, strict=True)
        ]
        equal = [pair for pair in pairs if pair[0].tokens.equal(pair[1].tokens)]
        errors = [(a.positional_scores - b.positional_scores).abs().max().item() for a, b in equal]
        yield Check(
            batch, length, beam, len(pairs), len(pairs) - len(equal), max(errors, default=0.0)
        )


def verify_files(model: nn.Module, path: Path, seed: int = 0, more: int = 0) -> int:
    """Compare the network with its files; print a line per batch, return exit status 1 if any is bad.

    The grid is all there is: ``more`` adds nothing.
    """
    for file in (half_path(path, "encoder"), path):
        read_graph(file)
    halves = StepSession(path)
    sizes = halves.vocab_size, halves.max_source, halves.max_target
    config = model.config
    if sizes != (config.tgt_vocab, config.max_source_positions, config.max_target_positions):
        raise UserError(f"{path} is of another network than the checkpoint; export it again")
    print("batch length beam hypotheses different  score error  check")
    checks = []
    for check in verify(model, halves, seed):
        checks.append(check)
        print(
            f"{check.batch:5} {check.length:6} {check.beam:4} {check.hypotheses:10} "
            f"{check.different:9} {check.score_error:12.2e}  {'OK' if check.good else 'BAD'}",
            flush=True,
        )
    bad = sum(not check.good for check in checks)
    print(f"{len(checks) - bad} of {len(checks)} batches agree")
    return 1 if bad else 0
